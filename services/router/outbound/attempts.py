"""Follows what runtimes tell of attempts whose trailers the gateway never saw."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Protocol

import structlog

from evenflow.runtime.v1 import runtime_service_pb2 as pb
from evenflow.runtime.v1.runtime_service_pb2_grpc import RuntimeServiceStub
from services.chassis.identity import TlsFiles, channel
from services.router.core.attempts import LostAttempt
from services.router.core.endings import Usage
from services.router.core.requests import Requests

# The stream is silent for hours where nothing is lost. Pings tell it from one that hangs; however
# late it is opened anew, the runtime tells again what it has.
_PINGS = (
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
)
_log = structlog.get_logger(__name__)


class AttemptSource(Protocol):
    address: str

    def attempts(self) -> AsyncGenerator[LostAttempt, None]:
        """Those that it has kept, then each as it ends. Ends when the runtime does.

        Raises grpc.aio.AioRpcError or OSError when it can't be reached.
        """


class GrpcAttemptSource:
    def __init__(self, address: str, tls: TlsFiles) -> None:
        self.address = address
        self._tls = tls

    async def attempts(self) -> AsyncGenerator[LostAttempt, None]:
        async with channel(self.address, self._tls, server="runtime", options=_PINGS) as opened:
            call = RuntimeServiceStub(opened).WatchAttempts(pb.WatchAttemptsRequest())
            dropped = 0
            try:
                async for each in call:
                    if each.dropped > dropped:
                        dropped = each.dropped
                        _log.warning("attempts.dropped", endpoint=self.address, attempts=dropped)
                    yield _attempt(self.address, each)
            finally:
                call.cancel()  # a no-op once the stream has ended


class AttemptFollower:
    """Each attempt of a request that is known here gets one line and, if asked for, one record."""

    def __init__(self, requests: Requests, record: Callable[[LostAttempt], None] | None) -> None:
        self._requests = requests
        self._record = record

    async def follow(self, source: AttemptSource) -> None:
        """Until the stream ends or fails."""
        async with aclosing(source.attempts()) as attempts:
            async for each in attempts:
                if self._requests.attempt(each):
                    self.tell(each)

    def tell(self, attempt: LostAttempt) -> None:
        _log.info(
            "attempt.lost",
            request_id=attempt.request_id,
            attempt=attempt.number,
            tenant=attempt.tenant,
            endpoint=attempt.endpoint,
            prompt_tokens=attempt.usage.prompt_tokens,
            cached_tokens=attempt.usage.cached_prompt_tokens,
            output_tokens=attempt.usage.output_tokens,
        )
        if self._record is not None:
            self._record(attempt)


def _attempt(address: str, said: pb.WatchAttemptsResponse) -> LostAttempt:
    return LostAttempt(
        request_id=said.request_id,
        number=said.attempt,
        tenant=said.tenant,
        endpoint=address,
        model_version=said.model_version,
        usage=Usage(said.prompt_tokens, said.cached_prompt_tokens, said.output_tokens),
        has_begun=said.end == pb.ATTEMPT_END_MID_STREAM,
    )
