"""An engine that hangs behind a living server, over real gRPC."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from services.runtime.core.simulation import Behaviour
from services.runtime.inbound.stalls import StallWatch
from services.runtime.outbound.simulated import SimulatedEngine
from tests.fakes.runtime_mesh import Refusal, Runtime, asking, owner, refusal, running

STALL_S = 0.3


@asynccontextmanager
async def watched(folder: Path, engine: SimulatedEngine) -> AsyncIterator[Runtime]:
    async with running(folder, engine) as runtime, asyncio.TaskGroup() as tasks:
        watch = tasks.create_task(StallWatch(runtime.serving, stall_s=STALL_S).run())
        yield runtime
        watch.cancel()


async def generate(runtime: Runtime, *, begun: asyncio.Event, tokens: int = 1000) -> Refusal | None:
    async with runtime.called_by("gateway") as stubs:
        request = asking(max_output_tokens=tokens, ignore_eos=True)
        try:
            async for _event in stubs.inference.Generate(request, metadata=owner(), timeout=20):
                begun.set()
        except grpc.aio.AioRpcError as error:
            return refusal(error)
    return None


@pytest.mark.parametrize("after_first_token", [True, False])
def test_a_stuck_engine_lets_its_callers_go(tmp_path: Path, after_first_token: bool) -> None:
    async def scenario() -> Refusal | None:
        engine = SimulatedEngine(Behaviour(step_s=0.01))
        begun = asyncio.Event()
        async with watched(tmp_path, engine) as runtime, asyncio.TaskGroup() as tasks:
            if not after_first_token:
                engine.hang_or_go_on()
            call = tasks.create_task(generate(runtime, begun=begun))
            if after_first_token:
                await begun.wait()
                engine.hang_or_go_on()
            async with asyncio.timeout(STALL_S + 1):
                return await call

    end = asyncio.run(scenario())

    assert end is not None
    assert (end.code, end.reason) == (grpc.StatusCode.UNAVAILABLE, "ENGINE_STALLED")


def test_a_stuck_engine_takes_nobody_and_serves_again_when_it_goes_on(tmp_path: Path) -> None:
    async def scenario() -> tuple[Refusal | None, Refusal | None]:
        engine = SimulatedEngine(Behaviour(step_s=0.01))
        begun = asyncio.Event()
        async with watched(tmp_path, engine) as runtime:
            engine.hang_or_go_on()
            await generate(runtime, begun=begun)
            refused = await generate(runtime, begun=begun)
            engine.hang_or_go_on()
            async with asyncio.timeout(5):
                while runtime.serving.patience.stalled:  # noqa: ASYNC110 - it can only be looked at
                    await asyncio.sleep(0.01)
            return refused, await generate(runtime, begun=begun, tokens=2)

    refused, served = asyncio.run(scenario())

    assert refused is not None
    assert refused.reason == "ENGINE_STALLED"
    assert served is None
