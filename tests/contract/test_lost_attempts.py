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
from services.router.core.requests import Requests
from services.router.outbound.attempts import AttemptFollower, AttemptSource, GrpcAttemptSource
from tests.fakes.lost_attempts import FakeAttemptSource
from tests.fakes.silent_runtime import SilentRuntime
from tests.identities import Identities
from tests.serving import served
from tests.unit.router.values import decision, lost

PATIENCE_S = 10.0


class Servicer(SilentRuntime):
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


class Router:
    """The part of a router that follows one runtime. It knows the requests that are named."""

    def __init__(self, *known: str) -> None:
        self.attempts: list[LostAttempt] = []
        self._news = asyncio.Event()
        requests = Requests()
        for request_id in known:
            requests.note(decision(request_id))
        self.follow = AttemptFollower(requests, self._take).follow

    def _take(self, attempt: LostAttempt) -> None:
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
        fake, router = FakeAttemptSource("a:1", early), Router("early", "late")
        async with connect(fake) as source, asyncio.TaskGroup() as tasks:
            task = tasks.create_task(router.follow(source))
            await router.of(1)
            await fake.lose(late)
            await router.of(2)
            task.cancel()
        return source.address, router.attempts

    address, attempts = asyncio.run(scenario())
    assert [replace(each, endpoint="") for each in attempts] == [early, late]
    assert {each.endpoint for each in attempts} <= {address, ""}


def test_who_comes_back_hears_all_again_and_takes_what_is_new(connect: Connect) -> None:
    async def scenario() -> list[str]:
        fake, router = FakeAttemptSource("a:1", lost("r1")), Router("r1", "r2")
        async with connect(fake) as source:
            for number in (1, 2):
                async with asyncio.TaskGroup() as tasks:
                    task = tasks.create_task(router.follow(source))
                    await router.of(number)
                    task.cancel()
                await fake.lose(lost("r2"))
        return [each.request_id for each in router.attempts]

    assert asyncio.run(scenario()) == ["r1", "r2"]


def test_of_several_routers_the_one_that_knows_the_request_takes_it(connect: Connect) -> None:
    async def scenario() -> list[list[str]]:
        fake = FakeAttemptSource("a:1", lost("r1"), lost("r2"))
        routers = Router("r1"), Router("r2")
        async with connect(fake) as source, asyncio.TaskGroup() as tasks:
            following = [tasks.create_task(each.follow(source)) for each in routers]
            for each in routers:
                await each.of(1)
            await fake.stop()
            await asyncio.wait(following)
        return [[told.request_id for told in each.attempts] for each in routers]

    assert asyncio.run(scenario()) == [["r1"], ["r2"]]


def test_it_ends_when_the_runtime_stops(connect: Connect) -> None:
    async def scenario() -> None:
        fake = FakeAttemptSource("a:1", lost("r1"))
        async with connect(fake) as source, asyncio.timeout(PATIENCE_S):
            await fake.stop()
            await Router().follow(source)

    asyncio.run(scenario())


def test_it_fails_when_the_runtime_dies(connect: Connect) -> None:
    async def scenario() -> None:
        fake = FakeAttemptSource("a:1")
        async with connect(fake) as source, asyncio.timeout(PATIENCE_S):
            await fake.die()
            with pytest.raises(grpc.aio.AioRpcError):
                await Router().follow(source)

    asyncio.run(scenario())


def test_what_was_dropped_before_anybody_heard_is_said_once(identities: Identities) -> None:
    async def scenario() -> None:
        fake = FakeAttemptSource("a:1", lost("r1"), lost("r2"))
        await fake.stop()
        async with over_socket(Servicer(fake, dropped=5), identities) as source:
            await Router().follow(source)

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
