"""Tells routers of the attempts whose trailers never reached the gateway.

A handler that was cancelled has no trailers, and only it knows what it has computed until then.
"""

import asyncio
from collections.abc import AsyncGenerator

import grpc
import structlog

from evenflow.runtime.v1 import runtime_service_pb2 as pb
from services.runtime.core.attempts import Attempt, LostAttempts
from services.runtime.core.engine import Engine
from services.runtime.inbound.reports import Report

_log = structlog.get_logger(__name__)


class AttemptLog:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lost = LostAttempts()
        self._listeners: set[asyncio.Event] = set()
        self._stopped = False

    def stop(self) -> None:
        """Ends every stream, once it has told all."""
        self._stopped = True
        self._wake()

    def follow(self, report: Report, context: grpc.aio.ServicerContext) -> None:
        """Before the first await of its handler. What ends without a status is written down."""
        context.add_done_callback(
            lambda over: self._over(report, delivered=over.done())  # type: ignore[arg-type] # its stub takes no function
        )

    async def watch(self) -> AsyncGenerator[pb.WatchAttemptsResponse, None]:
        place, news = 0, asyncio.Event()
        self._listeners.add(news)
        try:
            while True:
                news.clear()
                for at, attempt in self._lost.since(place):
                    place = at
                    yield self._message(attempt)
                if self._stopped:
                    return
                await news.wait()
        finally:
            self._listeners.discard(news)

    def _over(self, report: Report, *, delivered: bool) -> None:
        if delivered:
            return
        before = self._lost.dropped
        self._lost.add(report.attempt())
        if self._lost.dropped == 1 > before:
            _log.warning("attempts.dropping", why="no router listens")
        self._wake()

    def _wake(self) -> None:
        for each in self._listeners:
            each.set()

    def _message(self, attempt: Attempt) -> pb.WatchAttemptsResponse:
        begun = attempt.has_begun
        return pb.WatchAttemptsResponse(
            request_id=attempt.request_id,
            attempt=attempt.number,
            tenant=attempt.tenant,
            model=self._engine.model,
            model_version=self._engine.version,
            prompt_tokens=attempt.prompt_tokens,
            cached_prompt_tokens=attempt.cached_prompt_tokens,
            output_tokens=attempt.output_tokens,
            end=pb.ATTEMPT_END_MID_STREAM if begun else pb.ATTEMPT_END_BEFORE_FIRST_TOKEN,
            dropped=self._lost.dropped,
        )
