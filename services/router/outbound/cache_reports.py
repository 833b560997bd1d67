"""Tells telemetry what the response cache does and holds: numbers, never keys or texts."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

from evenflow.telemetry.v1 import cache_service_pb2 as pb
from evenflow.telemetry.v1.cache_service_pb2_grpc import CacheServiceStub
from services.chassis.identity import TlsFiles, channel
from services.router.core.response_cache import ResponseCache

_LOOK_EVERY_S = 0.25
_CONNECT_S = 5.0


class GrpcCacheReports:
    def __init__(self, address: str, tls: TlsFiles, cache: ResponseCache) -> None:
        self._address = address
        self._tls = tls
        self._cache = cache
        self._said: Counter[str] = Counter()  # over all streams: telemetry adds up

    async def report(self) -> None:
        """Ends by cancellation alone.

        Raises grpc.aio.AioRpcError, TimeoutError or OSError when telemetry can't be reached.
        """
        async with channel(self._address, self._tls, server="telemetry") as opened:
            async with asyncio.timeout(_CONNECT_S):
                await opened.channel_ready()  # nothing is said to a peer who is away
            await CacheServiceStub(opened).ReportCache(self._messages())

    async def _messages(self) -> AsyncIterator[pb.ReportCacheRequest]:
        yield self._message()
        held = (self._cache.entries, self._cache.bytes)
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            holds = (self._cache.entries, self._cache.bytes)
            if holds != held or self._cache.outcomes != self._said:
                held = holds
                yield self._message()

    def _message(self) -> pb.ReportCacheRequest:
        counts = self._cache.outcomes.copy()
        since = counts - self._said
        self._said = counts
        return pb.ReportCacheRequest(
            hits=since["hit"],
            misses=since["miss"],
            bypasses=since["bypass"],
            entries=self._cache.entries,
            bytes=self._cache.bytes,
        )
