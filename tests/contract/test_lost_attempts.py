"""What every AttemptSource must do for the router; the fake and the gRPC adapter pass the same."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Protocol

import grpc
import pytest
from structlog.testing import capture_logs

from evenflow.runtime.v1 import runtime_service_pb2 as pb
from evenflow.runtime.v1 import runtime_service_pb2_grpc as pb_grpc
from services.router.core.attempts import LostAttempt
from services.router.outbound.attempts import AttemptSource, GrpcAttemptSource, follow
from tests.fakes.lost_attempts import FakeAttemptSource
from tests.identities import Identities
from tests.serving import served
from tests.unit.router.values import lost

PATIENCE_S = 10.0


class Servicer(pb_grpc.RuntimeServiceServicer):
    """Puts a FakeAttemptSource behind a real socket."""

    def __init__(self, source: FakeAttemptSource, dropped: int = 0) -> None:
        self._source = source
        self._dropped = dropped

    async def WatchAttempts(  # noqa: N802 - the name is the proto's
        self, request: pb.WatchAttemptsRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.WatchAttemptsResponse]:
        try:
            async for each in self._source.attempts():
                yield _message(each, self._dropped)
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), "died")

    async def WatchState(  # noqa: N802 - the name is the proto's
        self, request: pb.WatchStateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.WatchStateResponse]:
        for _ in ():
            yield pb.WatchStateResponse()

    async def Drain(  # noqa: N802 - the name is the proto's
        self, request: pb.DrainRequest, context: grpc.aio.ServicerContext
    ) -> pb.DrainResponse:
        return pb.DrainResponse()


class Connect(Protocol):
    def __call__(self, fake: FakeAttemptSource) -> AbstractAsyncContextManager[AttemptSource]: ...


@pytest.fixture(params=["fake", "grpc"])
def connect(request: pytest.FixtureRequest, identities: Identities) -> Connect:
    @asynccontextmanager
    async def in_memory(fake: FakeAttemptSource) -> AsyncIterator[AttemptSource]:
        yield fake

    @asynccontextmanager
    async def over_grpc(fake: FakeAttemptSource) -> AsyncIterator[AttemptSource]:
        async with over_socket(Servicer(fake), identities) as source:
            yield source

    return in_memory if request.param == "fake" else over_grpc


@asynccontextmanager
async def over_socket(servicer: Servicer, identities: Identities) -> AsyncIterator[AttemptSource]:
    register = partial(pb_grpc.add_RuntimeServiceServicer_to_server, servicer)
    async with served(register, identities.service("runtime")) as address:
        yield GrpcAttemptSource(address, identities.service("router"))


class Heard:
    def __init__(self) -> None:
        self.attempts: list[LostAttempt] = []
        self._news = asyncio.Event()

    def __call__(self, attempt: LostAttempt) -> None:
        self.attempts.append(attempt)
        self._news.set()

    async def of(self, number: int) -> list[LostAttempt]:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.attempts) < number:
                self._news.clear()
                await self._news.wait()
        return self.attempts


def test_they_arrive_as_they_were_sent_those_before_first(connect: Connect) -> None:
    early = lost("early", endpoint="", number=3, has_begun=False)
    late = lost("late", endpoint="", tenant="globex")

    async def scenario() -> tuple[str, list[LostAttempt]]:
        fake, heard = FakeAttemptSource("a:1", early), Heard()
        async with connect(fake) as source, asyncio.TaskGroup() as tasks:
            task = tasks.create_task(follow(source, heard))
            await heard.of(1)
            await fake.lose(late)
            await heard.of(2)
            task.cancel()
        return source.address, heard.attempts

    address, attempts = asyncio.run(scenario())
    assert [replace(each, endpoint="") for each in attempts] == [early, late]
    assert {each.endpoint for each in attempts} <= {address, ""}


def test_who_comes_back_hears_them_again(connect: Connect) -> None:
    async def scenario() -> list[str]:
        fake, heard = FakeAttemptSource("a:1", lost("r1")), Heard()
        async with connect(fake) as source:
            for number in (1, 2):
                async with asyncio.TaskGroup() as tasks:
                    task = tasks.create_task(follow(source, heard))
                    await heard.of(number)
                    task.cancel()
        return [each.request_id for each in heard.attempts]

    assert asyncio.run(scenario()) == ["r1", "r1"]


def test_it_ends_when_the_runtime_stops(connect: Connect) -> None:
    async def scenario() -> None:
        fake = FakeAttemptSource("a:1", lost("r1"))
        async with connect(fake) as source, asyncio.timeout(PATIENCE_S):
            await fake.stop()
            await follow(source, Heard())

    asyncio.run(scenario())


def test_it_fails_when_the_runtime_dies(connect: Connect) -> None:
    async def scenario() -> None:
        fake = FakeAttemptSource("a:1")
        async with connect(fake) as source, asyncio.timeout(PATIENCE_S):
            await fake.die()
            with pytest.raises(grpc.aio.AioRpcError):
                await follow(source, Heard())

    asyncio.run(scenario())


def test_what_was_dropped_before_anybody_heard_is_said_once(identities: Identities) -> None:
    async def scenario() -> None:
        fake = FakeAttemptSource("a:1", lost("r1"), lost("r2"))
        await fake.stop()
        async with over_socket(Servicer(fake, dropped=5), identities) as source:
            await follow(source, Heard())

    with capture_logs() as logs:
        asyncio.run(scenario())
    assert [(each["event"], each["attempts"]) for each in logs] == [("attempts.dropped", 5)]


def _message(attempt: LostAttempt, dropped: int) -> pb.WatchAttemptsResponse:
    begun = attempt.has_begun
    return pb.WatchAttemptsResponse(
        request_id=attempt.request_id,
        attempt=attempt.number,
        tenant=attempt.tenant,
        model_version=attempt.model_version,
        prompt_tokens=attempt.usage.prompt_tokens,
        cached_prompt_tokens=attempt.usage.cached_prompt_tokens,
        output_tokens=attempt.usage.output_tokens,
        end=pb.ATTEMPT_END_MID_STREAM if begun else pb.ATTEMPT_END_BEFORE_FIRST_TOKEN,
        dropped=dropped,
    )
