"""Takes what routers know of their response caches: what they did, and what they hold meanwhile."""

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple

import grpc

from evenflow.telemetry.v1 import cache_service_pb2 as pb
from evenflow.telemetry.v1 import cache_service_pb2_grpc as pb_grpc
from services.chassis.open_streams import OpenStreams

SERVICE: str = pb.DESCRIPTOR.services_by_name["CacheService"].full_name


class Held(NamedTuple):
    entries: int
    bytes: int


class CacheServicer(pb_grpc.CacheServiceServicer):
    """Counts run since the start; what is held is the last word of each stream that is open."""

    def __init__(self) -> None:
        self._outcomes = Counter(hit=0, miss=0, bypass=0)
        self._words: dict[grpc.aio.ServicerContext, Held] = {}
        self._streams = OpenStreams()

    @property
    def outcomes(self) -> Mapping[str, int]:
        return self._outcomes

    def held(self) -> Held | None:
        """Over all routers; None while no router reports."""
        if not self._words:
            return None
        return Held(*(sum(each) for each in zip(*self._words.values(), strict=True)))

    def close(self) -> None:
        """Answers all streams."""
        self._streams.close()

    async def ReportCache(  # noqa: N802 - the name is the proto's
        self,
        request_iterator: AsyncIterator[pb.ReportCacheRequest],
        context: grpc.aio.ServicerContext,
    ) -> pb.ReportCacheResponse:
        try:
            async with self._streams.one():
                async for request in request_iterator:
                    self._take(request)
                    self._words[context] = Held(max(0, request.entries), max(0, request.bytes))
        finally:
            self._words.pop(context, None)
        return pb.ReportCacheResponse()

    def _take(self, request: pb.ReportCacheRequest) -> None:
        self._outcomes["hit"] += max(0, request.hits)
        self._outcomes["miss"] += max(0, request.misses)
        self._outcomes["bypass"] += max(0, request.bypasses)
