"""What every Answers must do for the router. The fake and the gRPC adapter pass the same tests."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Protocol

import grpc
import pytest

from evenflow.inference.v1.inference_service_pb2 import Usage as UsageMessage
from evenflow.runtime.v1 import runtime_service_pb2 as pb
from evenflow.runtime.v1 import runtime_service_pb2_grpc as pb_grpc
from services.router.core.endings import Usage
from services.router.core.response_cache import Answer, Expected, ResponseCache
from services.router.outbound.answers import Answers, GrpcAnswers, follow
from tests.fakes.runtime_answers import FakeAnswers
from tests.fakes.silent_runtime import SilentRuntime
from tests.identities import Identities
from tests.serving import served

PATIENCE_S = 10.0
GIVEN = Answer("v1", Usage(3, 1, 4), (b"started", b"delta", b"finished"))


class Servicer(SilentRuntime):
    """Puts FakeAnswers behind a real socket."""

    def __init__(self, answers: FakeAnswers) -> None:
        self._answers = answers
        self.asked_by = ""

    async def WatchAnswers(  # noqa: N802 - the name is the proto's
        self, request: pb.WatchAnswersRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.WatchAnswersResponse]:
        assert request.router == "router-1"
        try:
            async for key, answer in self._answers.answers():
                yield pb.WatchAnswersResponse(answers=[_message(key, answer)])
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), "died")


def _message(key: str, answer: Answer) -> pb.Answer:
    usage = UsageMessage(
        prompt_tokens=answer.usage.prompt_tokens,
        cached_prompt_tokens=answer.usage.cached_prompt_tokens,
        output_tokens=answer.usage.output_tokens,
    )
    return pb.Answer(
        key=key, model_version=answer.model_version, usage=usage, messages=answer.messages
    )


class Connect(Protocol):
    def __call__(self, answers: FakeAnswers) -> AbstractAsyncContextManager[Answers]: ...


@pytest.fixture(params=["fake", "grpc"])
def connect(request: pytest.FixtureRequest, identities: Identities) -> Connect:
    @asynccontextmanager
    async def in_memory(answers: FakeAnswers) -> AsyncIterator[Answers]:
        yield answers

    @asynccontextmanager
    async def over_grpc(answers: FakeAnswers) -> AsyncIterator[Answers]:
        register = partial(pb_grpc.add_RuntimeServiceServicer_to_server, Servicer(answers))
        async with served(register, identities.service("runtime")) as address:
            yield GrpcAnswers(address, identities.service("router"), router="router-1")

    return in_memory if request.param == "fake" else over_grpc


def followed(connect: Connect, cache: ResponseCache, *words: Callable[[FakeAnswers], None]) -> None:
    async def scenario() -> None:
        fake = FakeAnswers()
        for word in words:
            word(fake)
        async with asyncio.timeout(PATIENCE_S), connect(fake) as answers:
            await follow(answers, cache, lambda: 0.0)

    asyncio.run(scenario())


def expecting(*keys: str) -> ResponseCache:
    cache = ResponseCache(most_bytes=1 << 20)
    for key in keys:
        cache.expect(key, Expected("acme", 60.0, 10.0))
    return cache


def held(cache: ResponseCache, key: str) -> Answer | None:
    return cache.find("acme", key, ttl_s=60.0, now_s=0.0)


def test_an_answer_arrives_as_it_was_given(connect: Connect) -> None:
    cache = expecting("k1")

    followed(connect, cache, lambda fake: fake.give("k1", GIVEN), FakeAnswers.stop)

    assert held(cache, "k1") == GIVEN


def test_one_that_was_not_asked_for_is_left_and_the_next_is_taken(connect: Connect) -> None:
    cache = expecting("k2")

    followed(
        connect,
        cache,
        lambda fake: fake.give("k1", GIVEN),
        lambda fake: fake.give("k2", GIVEN),
        FakeAnswers.stop,
    )

    assert held(cache, "k1") is None
    assert held(cache, "k2") == GIVEN


def test_a_stream_that_breaks_is_an_error_and_what_came_stays(connect: Connect) -> None:
    cache = expecting("k1")

    with pytest.raises(grpc.aio.AioRpcError):
        followed(connect, cache, lambda fake: fake.give("k1", GIVEN), FakeAnswers.die)

    assert held(cache, "k1") == GIVEN


def test_a_runtime_that_is_not_there_is_an_error(identities: Identities) -> None:
    async def scenario() -> None:
        away = GrpcAnswers("127.0.0.1:1", identities.service("router"), router="router-1")
        with pytest.raises(grpc.aio.AioRpcError):
            await follow(away, ResponseCache(most_bytes=1), lambda: 0.0)

    asyncio.run(scenario())
