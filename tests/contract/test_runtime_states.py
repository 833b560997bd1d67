"""What every Runtime must do for the router. The fake and the gRPC adapter pass the same tests."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Protocol

import grpc
import pytest

from evenflow.runtime.v1 import runtime_service_pb2 as pb
from evenflow.runtime.v1 import runtime_service_pb2_grpc as pb_grpc
from services.router.core.circuits import OPENS_AFTER, Circuits, Outcome
from services.router.core.credentials import Cut
from services.router.core.endpoints import Endpoints, Readiness
from services.router.core.inflight import Load, Slot
from services.router.core.outliers import Outliers
from services.router.core.requests import Requests
from services.router.inbound.operator import runtime_message
from services.router.outbound.runtimes import GrpcRuntime, Runtime, RuntimeFollower
from tests.fakes.runtime_states import FakeRuntime
from tests.fakes.silent_runtime import SilentRuntime
from tests.identities import Identities
from tests.serving import served
from tests.unit.router.values import decision, model, state

SILENCE_S = 0.3
PATIENCE_S = 10.0


class Servicer(SilentRuntime):
    """Puts a FakeRuntime behind a real socket."""

    def __init__(self, runtime: FakeRuntime) -> None:
        self._runtime = runtime

    async def WatchState(  # noqa: N802 - the name is the proto's
        self, request: pb.WatchStateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.WatchStateResponse]:
        try:
            async for each in self._runtime.states():
                yield runtime_message(each)
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), "died")

    async def CutAttempts(  # noqa: N802 - the name is the proto's
        self, request: pb.CutAttemptsRequest, context: grpc.aio.ServicerContext
    ) -> pb.CutAttemptsResponse:
        why = _CUTS[request.reason]
        return pb.CutAttemptsResponse(
            cut=await self._runtime.cut(request.request_ids, why, within_s=1.0)
        )

    async def Drain(  # noqa: N802 - the name is the proto's
        self, request: pb.DrainRequest, context: grpc.aio.ServicerContext
    ) -> pb.DrainResponse:
        await self._runtime.drain(within_s=1.0)
        return pb.DrainResponse()


_CUTS = {
    pb.CUT_REASON_API_KEY_REVOKED: Cut.API_KEY_REVOKED,
    pb.CUT_REASON_CERTIFICATE_REVOKED: Cut.CERTIFICATE_REVOKED,
}


class Connect(Protocol):
    def __call__(self, runtime: FakeRuntime) -> AbstractAsyncContextManager[Runtime]: ...


@pytest.fixture(params=["fake", "grpc"])
def connect(request: pytest.FixtureRequest, identities: Identities) -> Connect:
    @asynccontextmanager
    async def in_memory(runtime: FakeRuntime) -> AsyncIterator[Runtime]:
        yield runtime

    @asynccontextmanager
    async def over_grpc(runtime: FakeRuntime) -> AsyncIterator[Runtime]:
        servicer = Servicer(runtime)
        register = partial(pb_grpc.add_RuntimeServiceServicer_to_server, servicer)
        async with served(register, identities.service("runtime")) as address:
            runtime.address = address
            yield GrpcRuntime(address, identities.service("router"))

    return in_memory if request.param == "fake" else over_grpc


class Router:
    """The part of a router that follows one runtime."""

    def __init__(self, address: str, silence_s: float = PATIENCE_S) -> None:
        self.endpoints = Endpoints([address])
        self.requests = Requests()
        self.circuits = Circuits()
        self.address = address
        self._changes: asyncio.Queue[tuple[str, ...]] = asyncio.Queue()
        self.outliers = Outliers()
        self.follower = RuntimeFollower(
            self.endpoints,
            self.requests,
            (self.circuits, self.outliers),
            self._changed,
            silence_s=silence_s,
        )

    def _changed(self) -> None:
        self._changes.put_nowait(tuple(self.endpoints.in_service()))

    async def next_in_service(self) -> tuple[str, ...]:
        async with asyncio.timeout(PATIENCE_S):
            return await self._changes.get()


@asynccontextmanager
async def following(
    connect: Connect, *states: Any, silence_s: float = PATIENCE_S
) -> AsyncIterator[tuple[FakeRuntime, Router]]:
    fake = FakeRuntime("a:1", *states)
    async with connect(fake) as runtime, asyncio.TaskGroup() as tasks:
        router = Router(runtime.address, silence_s)
        task = tasks.create_task(_until_over(router, runtime))
        yield fake, router
        task.cancel()


async def _until_over(router: Router, runtime: Runtime) -> None:
    try:
        await router.follower.follow(runtime)
    except (grpc.aio.AioRpcError, TimeoutError):
        return


def test_a_state_arrives_as_it_was_sent(connect: Connect) -> None:
    sent = state(model(), model(model="b", readiness=Readiness.FAILED), running=3, waiting=2)

    async def scenario() -> None:
        async with following(connect, sent) as (_, router):
            assert await router.next_in_service() == (router.address,)
            assert router.endpoints.get(router.address).state == sent

    asyncio.run(scenario())


@pytest.mark.parametrize("end", ["stop", "die"])
def test_an_endpoint_leaves_when_its_stream_ends(connect: Connect, end: str) -> None:
    async def scenario() -> None:
        async with following(connect, state()) as (fake, router):
            await router.next_in_service()
            getattr(fake, end)()
            assert await router.next_in_service() == ()

    asyncio.run(scenario())


def test_an_endpoint_leaves_when_it_falls_silent(connect: Connect) -> None:
    async def scenario() -> None:
        async with following(connect, state(), silence_s=SILENCE_S) as (_, router):
            assert await router.next_in_service() == (router.address,)
            assert await router.next_in_service() == ()

    asyncio.run(scenario())


def test_an_endpoint_that_drains_leaves(connect: Connect) -> None:
    async def scenario() -> None:
        async with following(connect, state(), state(draining=True)) as (_, router):
            assert await router.next_in_service() == (router.address,)
            assert await router.next_in_service() == ()

    asyncio.run(scenario())


def test_a_restart_frees_what_the_process_before_had(connect: Connect) -> None:
    async def scenario() -> None:
        async with following(connect, state()) as (fake, router):
            await router.next_in_service()
            router.requests.admit(decision(), Slot(router.address, 100, 1e9))
            for began in range(OPENS_AFTER):
                failed = Outcome(router.address, succeeded=False)
                router.circuits.learn(failed, began_s=began, now_s=0.0)
            fake.say(state(instance_id="second", draining=True))
            assert await router.next_in_service() == ()
            assert router.requests.load(router.address) == Load(0, 0)
            assert not router.circuits.is_open(router.address, 0.0)

    asyncio.run(scenario())


def test_draining_returns_when_the_runtime_says_so(connect: Connect) -> None:
    async def scenario() -> None:
        fake = FakeRuntime("a:1")
        async with connect(fake) as runtime:
            await runtime.drain(within_s=PATIENCE_S)
            assert fake.drained.is_set()

    asyncio.run(scenario())


def test_a_runtime_that_is_not_there_is_lost(identities: Identities) -> None:
    async def scenario() -> None:
        router = Router("127.0.0.1:1")
        runtime = GrpcRuntime(router.address, identities.service("router"))
        with pytest.raises(grpc.aio.AioRpcError):
            await router.follower.follow(runtime)
        assert router.endpoints.get(router.address).tried

    asyncio.run(scenario())


@pytest.mark.parametrize("why", Cut)
def test_attempts_that_must_not_go_on_are_cut_once(connect: Connect, why: Cut) -> None:
    fake = FakeRuntime("127.0.0.1:9101")
    fake.running = {"r1", "r2", "r3"}

    async def scenario() -> list[int]:
        async with connect(fake) as runtime:
            asked = ["r1", "r3", "elsewhere"]
            return [await runtime.cut(asked, why, within_s=PATIENCE_S) for _ in range(2)]

    assert asyncio.run(scenario()) == [2, 0]
    assert fake.running == {"r2"}
    assert fake.cuts[0] == (frozenset({"r1", "r3", "elsewhere"}), why)
