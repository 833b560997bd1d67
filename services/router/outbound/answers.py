"""Follows what runtimes hand over for the response cache. An answer that is lost is no loss."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Protocol

from evenflow.runtime.v1 import runtime_service_pb2 as pb
from evenflow.runtime.v1.runtime_service_pb2_grpc import RuntimeServiceStub
from services.chassis.identity import TlsFiles, channel
from services.router.core.endings import Usage
from services.router.core.response_cache import Answer, ResponseCache

# There may be hours between answers; a runtime that is cut off is noticed all the same.
_PINGS = (("grpc.keepalive_time_ms", 10_000), ("grpc.keepalive_timeout_ms", 3_000))


class Answers(Protocol):
    def answers(self) -> AsyncGenerator[tuple[str, Answer], None]:
        """Each with the key that this router gave. Ends when the runtime does.

        Raises grpc.aio.AioRpcError or OSError when it can't be reached.
        """


class GrpcAnswers:
    """Of one runtime, on a connection of their own: they must not hold up its state."""

    def __init__(self, address: str, tls: TlsFiles, *, router: str) -> None:
        self._address = address
        self._tls = tls
        self._router = router

    async def answers(self) -> AsyncGenerator[tuple[str, Answer], None]:
        async with channel(self._address, self._tls, server="runtime", options=_PINGS) as opened:
            request = pb.WatchAnswersRequest(router=self._router)
            call = RuntimeServiceStub(opened).WatchAnswers(request)
            try:
                async for response in call:
                    for each in response.answers:
                        yield each.key, _answer(each)
            finally:
                call.cancel()  # a no-op once the stream has ended


async def follow(answers: Answers, cache: ResponseCache, clock: Callable[[], float]) -> None:
    """Until the stream ends or fails."""
    async with aclosing(answers.answers()) as handed_over:
        async for key, answer in handed_over:
            cache.keep(key, answer, clock())


def _answer(answer: pb.Answer) -> Answer:
    usage = answer.usage
    return Answer(
        model_version=answer.model_version,
        usage=Usage(usage.prompt_tokens, usage.cached_prompt_tokens, usage.output_tokens),
        messages=tuple(answer.messages),
    )
