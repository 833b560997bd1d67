"""Follows policy's candidate, and tells policy what it would have decided otherwise."""

import asyncio
from collections.abc import Callable

import structlog

from evenflow.policy.v1 import shadow_service_pb2 as pb
from evenflow.policy.v1.shadow_service_pb2_grpc import ShadowServiceStub
from services.chassis.identity import TlsFiles, channel
from services.router.core.shadow import Kind, Shadow
from services.router.core.tenants import InvalidSnapshot, Tenants
from services.router.core.verdicts import Reason
from services.router.outbound.policy import word_of

_REPORT_EVERY_S = 1.0
_CALL_S = 5.0

_log = structlog.get_logger(__name__)


class GrpcShadow:
    """`router`: a name that it has for as long as it runs."""

    def __init__(self, address: str, tls: TlsFiles, shadow: Shadow, *, router: str) -> None:
        self._address = address
        self._tls = tls
        self._shadow = shadow
        self._router = router

    async def follow(self, clock: Callable[[], float]) -> None:
        """Until the stream ends or fails; the candidate stays until it is too old.

        Raises grpc.aio.AioRpcError or OSError when policy can't be reached.
        """
        async with channel(self._address, self._tls, server="policy") as opened:
            call = ShadowServiceStub(opened).WatchShadow(pb.WatchShadowRequest())
            try:
                async for response in call:
                    self._heard(response, clock())
            finally:
                call.cancel()  # a no-op once the stream has ended

    async def report(self) -> None:
        """Ends by cancellation alone.

        Raises grpc.aio.AioRpcError or OSError when policy can't be reached.
        """
        said: tuple[str, int] = ("", 0)
        async with channel(self._address, self._tls, server="policy") as opened:
            while True:
                await asyncio.sleep(_REPORT_EVERY_S)
                counted = (self._shadow.version, self._shadow.judged + self._shadow.failed)
                if counted != said and all(counted):
                    request = report_of(self._shadow, self._router)
                    await ShadowServiceStub(opened).ReportShadow(request, timeout=_CALL_S)
                    said = counted

    def _heard(self, response: pb.WatchShadowResponse, now_s: float) -> None:
        if not response.version:
            if self._shadow.version:
                _log.info("shadow.cleared")
            self._shadow.cleared()
        elif response.HasField("snapshot"):
            self._take(response, now_s)
        else:
            self._shadow.confirmed(now_s)

    def _take(self, response: pb.WatchShadowResponse, now_s: float) -> None:
        word = word_of(response.snapshot, again=False)
        try:
            tenants = Tenants(response.version, word.tenants or (), word.classes)
        except InvalidSnapshot as error:
            _log.error("shadow.refused", version=response.version, problem=str(error))
            self._shadow.cleared()
            return
        if response.version != self._shadow.version:
            _log.info("shadow.replaced", version=response.version, tenants=len(word.tenants or ()))
        self._shadow.replaced(tenants, now_s)


def report_of(shadow: Shadow, router: str) -> pb.ReportShadowRequest:
    """All that was counted since it is the candidate."""
    return pb.ReportShadowRequest(
        router=router,
        version=shadow.version,
        judged=shadow.judged,
        failed=shadow.failed,
        differences=[
            _difference(kind, requests, shadow.examples.get(kind, []))
            for kind, requests in shadow.differences.items()
        ],
    )


def _difference(kind: Kind, requests: int, examples: list[str]) -> pb.ShadowDifference:
    return pb.ShadowDifference(
        live=_outcome(kind.live),
        shadow=_outcome(kind.shadow),
        tenant=kind.tenant,
        requests=requests,
        examples=examples,
    )


def _outcome(reason: Reason | None) -> str:
    return reason.value if reason else ""
