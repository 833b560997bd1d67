"""What routers and operators see of a runtime, over real gRPC."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from evenflow.runtime.v1 import runtime_service_pb2 as pb
from services.runtime.core.simulation import Behaviour
from services.runtime.outbound.simulated import SimulatedEngine
from tests.fakes.runtime_mesh import Runtime, asking, owner, refusal, running

T = TypeVar("T")

ENDLESS = Behaviour(step_s=0.005, max_context_tokens=10_000, max_running=1)


def against(folder: Path, body: Callable[[Runtime], Awaitable[T]], *, ready: bool = True) -> T:
    async def scenario() -> T:
        async with running(folder, SimulatedEngine(ENDLESS), ready=ready) as runtime:
            return await body(runtime)

    return asyncio.run(scenario())


async def states_until(
    runtime: Runtime, condition: Callable[[pb.WatchStateResponse], bool]
) -> list[pb.WatchStateResponse]:
    seen = []
    async with runtime.called_by("router") as stubs:
        call = stubs.state.WatchState(pb.WatchStateRequest(), timeout=5)
        async for state in call:
            seen.append(state)
            if condition(state):
                return seen
    raise AssertionError("the stream ended before")


async def generate(runtime: Runtime, *, begun: asyncio.Event, tokens: int = 5000) -> None:
    async with runtime.called_by("gateway") as stubs:
        request = asking(max_output_tokens=tokens, ignore_eos=True)
        async for _event in stubs.inference.Generate(request, metadata=owner(), timeout=20):
            begun.set()


def test_the_first_state_comes_at_once_and_is_whole(tmp_path: Path) -> None:
    async def body(runtime: Runtime) -> pb.WatchStateResponse:
        return (await states_until(runtime, lambda _: True))[0]

    state = against(tmp_path, body)

    assert state.instance_id
    assert state.engine == "simulated"
    assert list(state.models) == [
        pb.ModelState(
            model="simulated",
            version="simulated",
            readiness=pb.READINESS_READY,
            max_context_tokens=10_000,
        )
    ]
    assert (state.running, state.waiting, state.draining) == (0, 0, False)
    assert state.kv_blocks_free == state.kv_blocks_total > 0
    assert (state.kv_block_tokens, state.max_running) == (16, 1)


def test_until_the_engine_answers_it_is_loading(tmp_path: Path) -> None:
    async def body(runtime: Runtime) -> list[int]:
        first = await states_until(runtime, lambda _: True)
        runtime.serving.ready = True
        ready = await states_until(
            runtime, lambda state: state.models[0].readiness == pb.READINESS_READY
        )
        return [first[0].models[0].readiness, ready[-1].models[0].readiness]

    assert against(tmp_path, body, ready=False) == [pb.READINESS_LOADING, pb.READINESS_READY]


def test_while_it_loads_nothing_is_generated(tmp_path: Path) -> None:
    async def body(runtime: Runtime) -> None:
        await generate(runtime, begun=asyncio.Event())

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        against(tmp_path, body, ready=False)

    end = refusal(caught.value)
    assert (end.code, end.reason) == (grpc.StatusCode.UNAVAILABLE, "NO_ENDPOINT")


def test_changes_are_told(tmp_path: Path) -> None:
    async def body(runtime: Runtime) -> list[tuple[int, int]]:
        watching, begun = asyncio.Event(), asyncio.Event()

        def waits(state: pb.WatchStateResponse) -> bool:
            watching.set()
            return state.waiting == 1

        async with asyncio.TaskGroup() as tasks:
            watch = tasks.create_task(states_until(runtime, waits))
            await watching.wait()
            works = [tasks.create_task(generate(runtime, begun=begun)) for _ in range(2)]
            seen = await watch
            for work in works:
                work.cancel()
        return [(state.running, state.waiting) for state in seen]

    seen = against(tmp_path, body)

    assert (seen[0], seen[-1]) == ((0, 0), (1, 1))


def test_silence_is_broken_five_times_a_second(tmp_path: Path) -> None:
    async def body(runtime: Runtime) -> float:
        started_s = asyncio.get_running_loop().time()
        seen = iter(range(3))
        await states_until(runtime, lambda _: next(seen) == 2)
        return asyncio.get_running_loop().time() - started_s

    assert 0.3 < against(tmp_path, body) < 0.8


def test_a_crashed_engine_is_told(tmp_path: Path) -> None:
    async def scenario() -> int:
        crashing = SimulatedEngine(Behaviour(step_s=0.001, crash_after_tokens=3))
        async with running(tmp_path, crashing) as runtime:
            with pytest.raises(grpc.aio.AioRpcError):
                await generate(runtime, begun=asyncio.Event(), tokens=100)
            state = (await states_until(runtime, lambda _: True))[0]
        return state.models[0].readiness

    assert asyncio.run(scenario()) == pb.READINESS_FAILED


def test_a_drained_runtime_refuses_and_lets_the_running_end(tmp_path: Path) -> None:
    async def body(runtime: Runtime) -> int:
        begun = asyncio.Event()
        async with asyncio.TaskGroup() as tasks, runtime.called_by("operator") as stubs:
            tasks.create_task(generate(runtime, begun=begun, tokens=60))
            await begun.wait()
            drained = await stubs.state.Drain(pb.DrainRequest(), timeout=10)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await generate(runtime, begun=begun)
        end = refusal(caught.value)
        assert (end.code, end.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        assert (await states_until(runtime, lambda _: True))[0].draining
        still_running: int = drained.still_running
        return still_running

    assert against(tmp_path, body) == 0


def test_a_grace_that_is_over_says_how_many_still_run(tmp_path: Path) -> None:
    async def body(runtime: Runtime) -> int:
        begun = asyncio.Event()
        async with asyncio.TaskGroup() as tasks, runtime.called_by("router") as stubs:
            work = tasks.create_task(generate(runtime, begun=begun))
            await begun.wait()
            grace = Duration(nanos=50_000_000)
            drained = await stubs.state.Drain(pb.DrainRequest(grace=grace), timeout=10)
            work.cancel()
        still_running: int = drained.still_running
        return still_running

    assert against(tmp_path, body) == 1


@pytest.mark.parametrize("caller", ["gateway", "policy", "telemetry"])
def test_nobody_else_may_drain(tmp_path: Path, caller: str) -> None:
    async def body(runtime: Runtime) -> None:
        async with runtime.called_by(caller) as stubs:
            await stubs.state.Drain(pb.DrainRequest(), timeout=5)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        against(tmp_path, body)

    assert refusal(caught.value).reason == "CALLER_NOT_ALLOWED"


@pytest.mark.parametrize("caller", ["gateway", "operator"])
def test_only_routers_watch(tmp_path: Path, caller: str) -> None:
    async def body(runtime: Runtime) -> None:
        async with runtime.called_by(caller) as stubs:
            await anext(aiter(stubs.state.WatchState(pb.WatchStateRequest(), timeout=5)))

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        against(tmp_path, body)

    assert refusal(caught.value).reason == "CALLER_NOT_ALLOWED"


def test_a_stopping_runtime_ends_its_streams(tmp_path: Path) -> None:
    async def body(runtime: Runtime) -> int:
        async with runtime.called_by("router") as stubs:
            call = stubs.state.WatchState(pb.WatchStateRequest(), timeout=5)
            states = 0
            async for _ in call:
                states += 1
                runtime.states.stop()
            return states

    assert against(tmp_path, body) == 1
