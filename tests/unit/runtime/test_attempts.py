"""What routers are told of attempts whose trailers nobody got, over real gRPC."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenflow.runtime.v1 import runtime_service_pb2 as pb
from services.runtime.core.attempts import Attempt, LostAttempts
from services.runtime.core.simulation import Behaviour
from services.runtime.outbound.simulated import SimulatedEngine
from tests.fakes.runtime_mesh import Runtime, asking, owner, refusal, running

T = TypeVar("T")

PATIENCE_S = 10.0
ENDLESS = Behaviour(step_s=0.005, max_context_tokens=10_000, max_running=1)
LONG = asking(max_output_tokens=5000, ignore_eos=True)


def against(folder: Path, body: Callable[[Runtime], Awaitable[T]]) -> T:
    async def scenario() -> T:
        async with running(folder, SimulatedEngine(ENDLESS)) as runtime:
            return await body(runtime)

    return asyncio.run(scenario())


class Told:
    """What one router has heard so far."""

    def __init__(self) -> None:
        self.attempts: list[pb.WatchAttemptsResponse] = []
        self._news = asyncio.Event()

    async def listen(self, runtime: Runtime) -> None:
        async with runtime.called_by("router") as stubs:
            async for each in stubs.state.WatchAttempts(pb.WatchAttemptsRequest()):
                self.attempts.append(each)
                self._news.set()

    async def of(self, number: int) -> list[pb.WatchAttemptsResponse]:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.attempts) < number:
                self._news.clear()
                await self._news.wait()
        return self.attempts


@asynccontextmanager
async def listening(runtime: Runtime) -> AsyncIterator[Told]:
    told = Told()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(told.listen(runtime))
        yield told
        task.cancel()


async def leave_after(
    runtime: Runtime, messages: int, *, request_id: str = "r-1", attempt: str = ""
) -> int:
    """Tokens that had come when the caller left."""
    metadata = owner(request_id=request_id)
    if attempt:
        metadata = (*metadata, ("x-envoy-attempt-count", attempt))
    async with runtime.called_by("gateway") as stubs:
        call = stubs.inference.Generate(LONG, metadata=metadata)
        tokens = 0
        for _ in range(messages):
            tokens += (await call.read()).delta.tokens
        if not messages:
            await until_busy(runtime)
        call.cancel()
    return tokens


async def until_busy(runtime: Runtime) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not runtime.serving.active:  # noqa: ASYNC110 - it can only be asked
            await asyncio.sleep(0.001)


def test_one_that_was_cut_off_in_mid_stream_tells_what_it_took(tmp_path: Path) -> None:
    async def body(runtime: Runtime) -> tuple[int, pb.WatchAttemptsResponse]:
        async with listening(runtime) as told:
            received = await leave_after(runtime, 8, attempt="2")
            return received, (await told.of(1))[0]

    received, said = against(tmp_path, body)

    assert (said.request_id, said.attempt, said.tenant) == ("r-1", 2, "acme")
    assert (said.model, said.model_version) == ("simulated", "simulated")
    assert said.end == pb.ATTEMPT_END_MID_STREAM
    assert said.prompt_tokens > 0
    assert said.output_tokens >= received > 0


def test_one_that_was_cut_off_before_its_first_token_wrote_none(tmp_path: Path) -> None:
    async def body(runtime: Runtime) -> list[pb.WatchAttemptsResponse]:
        async with listening(runtime) as told:
            async with asyncio.TaskGroup() as tasks, runtime.called_by("gateway") as stubs:
                works = stubs.inference.Generate(LONG, metadata=owner(request_id="works"))
                await works.read()
                waits = stubs.inference.Generate(LONG, metadata=owner(request_id="waits"))
                begun = tasks.create_task(waits.read())
                async with asyncio.timeout(PATIENCE_S):
                    while runtime.serving.active < 2:  # noqa: ASYNC110 - it can only be asked
                        await asyncio.sleep(0.001)
                begun.cancel()
                waits.cancel()
                await told.of(1)
            return await told.of(1)

    said = against(tmp_path, body)[0]

    assert (said.request_id, said.attempt) == ("waits", 1)
    assert (said.output_tokens, said.end) == (0, pb.ATTEMPT_END_BEFORE_FIRST_TOKEN)


def test_whose_trailers_were_sent_is_not_told_of(tmp_path: Path) -> None:
    async def body(runtime: Runtime) -> list[str]:
        async with listening(runtime) as told, runtime.called_by("gateway") as stubs:
            async for _ in stubs.inference.Generate(asking(max_output_tokens=2), metadata=owner()):
                pass
            for refused in (asking(max_output_tokens=2**30), asking(temperature=-1.0)):
                with pytest.raises(grpc.aio.AioRpcError):
                    await stubs.inference.Generate(refused, metadata=owner()).read()
            with pytest.raises(grpc.aio.AioRpcError):
                async for _ in stubs.inference.Generate(LONG, metadata=owner(), timeout=0.2):
                    pass  # the runtime ends it before the deadline does
            await leave_after(runtime, 1, request_id="left")
            return [each.request_id for each in await told.of(1)]

    assert against(tmp_path, body) == ["left"]


def test_every_router_hears_of_all_that_is_kept(tmp_path: Path) -> None:
    async def body(runtime: Runtime) -> list[list[str]]:
        await leave_after(runtime, 1, request_id="nobody listened")
        async with listening(runtime) as one:
            await one.of(1)
            await leave_after(runtime, 1, request_id="one listened")
            await one.of(2)
            async with listening(runtime) as another:
                return [[each.request_id for each in await told.of(2)] for told in (one, another)]

    assert against(tmp_path, body) == [["nobody listened", "one listened"]] * 2


@pytest.mark.parametrize("caller", ["gateway", "operator"])
def test_only_routers_listen(tmp_path: Path, caller: str) -> None:
    async def body(runtime: Runtime) -> None:
        async with runtime.called_by(caller) as stubs:
            await stubs.state.WatchAttempts(pb.WatchAttemptsRequest(), timeout=5).read()

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        against(tmp_path, body)

    assert refusal(caught.value).reason == "CALLER_NOT_ALLOWED"


def test_a_stopping_runtime_ends_its_streams_when_it_has_told_all(tmp_path: Path) -> None:
    async def body(runtime: Runtime) -> list[str]:
        await leave_after(runtime, 1)
        async with runtime.called_by("router") as stubs:
            call = stubs.state.WatchAttempts(pb.WatchAttemptsRequest(), timeout=5)
            told = aiter(call)
            await anext(told)
            await leave_after(runtime, 1, request_id="last")
            async with asyncio.timeout(PATIENCE_S):
                await runtime.serving.wait_until_idle()
            runtime.states.stop()
            return [each.request_id async for each in told]

    assert against(tmp_path, body) == ["last"]


@settings(deadline=None)  # a busy machine is no failure
@given(st.integers(1, 4), st.lists(st.one_of(st.just("ends"), st.sampled_from("abc")), max_size=30))
def test_each_listener_hears_all_that_was_kept_once_and_in_order(
    kept: int, events: list[str]
) -> None:
    """The oracle keeps everything."""
    lost, ended = LostAttempts(kept=kept), 0
    places, told = dict.fromkeys("abc", 0), 0
    dropped = 0
    for event in events:
        if event == "ends":
            dropped += ended >= kept and told <= ended - kept
            lost.add(attempt(ended))
            ended += 1
        else:
            heard = [*lost.since(places[event])]
            first = max(places[event], ended - kept)
            assert [each.number for _, each in heard] == list(range(first, ended))
            places[event] = heard[-1][0] if heard else places[event]
            told = max(told, places[event])
        assert lost.dropped == dropped


def attempt(number: int) -> Attempt:
    return Attempt(
        request_id="r",
        number=number,
        tenant="acme",
        prompt_tokens=1,
        cached_prompt_tokens=0,
        output_tokens=1,
        has_begun=True,
    )
