"""Sends what is in the spool to policy's audit log, and forgets it when it is there for good."""

import asyncio
from collections.abc import AsyncIterator, Callable

import structlog

from evenflow.policy.v1 import audit_service_pb2 as pb
from evenflow.policy.v1.audit_service_pb2_grpc import AuditServiceStub
from services.chassis.identity import TlsFiles, channel
from services.router.outbound.spool import Spool

_GATHER_S = 0.1  # entries wait for company
_CONNECT_S = 5.0
_log = structlog.get_logger(__name__)


class SpoolShipper:
    """`heard` is told of each word from policy."""

    def __init__(
        self, spool: Spool, address: str, tls: TlsFiles, heard: Callable[[], None]
    ) -> None:
        self._spool = spool
        self._address = address
        self._tls = tls
        self._heard = heard

    async def follow(self) -> None:
        """Until the stream ends or fails. Raises grpc.aio.AioRpcError, OSError."""
        async with channel(self._address, self._tls, server="policy") as opened:
            async with asyncio.timeout(_CONNECT_S):
                await opened.channel_ready()
            call = AuditServiceStub(opened).Append(self._requests())
            try:
                async for response in call:
                    self._spool.forget(response.sequence)
                    self._heard()
            finally:
                call.cancel()  # a no-op once the stream has ended

    async def _requests(self) -> AsyncIterator[pb.AppendRequest]:
        spool, sent = self._spool, self._spool.acknowledged
        while True:
            if sent >= spool.last:
                spool.changed.clear()
                await spool.changed.wait()
                await asyncio.sleep(_GATHER_S)
            content, sent = spool.after(sent)
            if content:
                request = pb.AppendRequest.FromString(content)
                request.spool = spool.id
                yield request
