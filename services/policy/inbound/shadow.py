"""The candidate policy: operators set it, routers judge by it beside the one in force and tell what
it would have decided otherwise."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import grpc
import structlog

from evenflow.policy.v1 import shadow_service_pb2 as pb
from evenflow.policy.v1 import shadow_service_pb2_grpc as pb_grpc
from services.chassis.callers import AllowedCallers
from services.chassis.identity import peer_id
from services.chassis.logs import add_facts
from services.chassis.status import ErrorTable, Status
from services.policy.core.audit import Audit, Deed
from services.policy.core.nodes import InvalidPolicy
from services.policy.core.shadow_counts import MOST_KINDS, Kind, Report, Shadow, ShadowCounts
from services.policy.core.tenants import Policy
from services.policy.inbound.changes import Changes
from services.policy.inbound.tenants import encode
from services.policy.inbound.times import timestamp
from services.policy.served import Served

SERVICE: str = pb.DESCRIPTOR.services_by_name["ShadowService"].full_name
CALLERS: AllowedCallers = {
    f"/{SERVICE}/": frozenset({"operator"}),
    f"/{SERVICE}/WatchShadow": frozenset({"router"}),
    f"/{SERVICE}/ReportShadow": frozenset({"router"}),
}
ERRORS: ErrorTable = {
    InvalidPolicy: Status(grpc.StatusCode.INVALID_ARGUMENT, "POLICY_INVALID"),
}

_log = structlog.get_logger(__name__)


class Shadows(Protocol):
    """Keeps it. Each call raises DatabaseUnreachable."""

    async def set_shadow(self, shadow: Shadow, content: bytes) -> None: ...

    async def clear_shadow(self) -> None: ...

    async def shadow(self) -> tuple[Shadow, bytes] | None: ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    shadows: Shadows
    read: Callable[[bytes], Policy]  # as the file is read; raises InvalidPolicy
    audit: Audit
    now_unix_s: Callable[[], float]


class ShadowServicer(pb_grpc.ShadowServiceServicer):
    def __init__(self, around: Surroundings, *, heartbeat_s: float) -> None:
        self._around = around
        self._shadow: Shadow | None = None
        self._snapshot = pb.WatchShadowResponse()
        self._counts = ShadowCounts("")
        self._changes = Changes(heartbeat_s)
        self._closed = False
        self._turn = asyncio.Lock()  # of those who set and clear it

    async def begin(self) -> None:
        """With the one that was kept, if it still can be used. Raises DatabaseUnreachable."""
        kept = await self._around.shadows.shadow()
        if kept is None:
            return
        shadow, content = kept
        try:
            policy = await asyncio.to_thread(self._around.read, content)
        except InvalidPolicy as error:
            _log.error("shadow.lost", version=shadow.version, problems=str(error))
        else:
            self._put(shadow, policy)

    def close(self) -> None:
        """Ends all streams, so that a drain need not wait for those that have no end."""
        self._closed = True
        self._changes.wake()

    async def SetShadow(  # noqa: N802 - the name is the proto's
        self, request: pb.SetShadowRequest, context: grpc.aio.ServicerContext
    ) -> pb.SetShadowResponse:
        async with self._turn:
            policy = await asyncio.to_thread(self._around.read, request.content)
            add_facts(version=policy.version)
            if self._shadow is None or self._shadow.version != policy.version:
                await self._set(policy, request.content, str(peer_id(context)))
        return pb.SetShadowResponse(version=policy.version, tenants=len(policy.tenants))

    async def ClearShadow(  # noqa: N802 - the name is the proto's
        self, request: pb.ClearShadowRequest, context: grpc.aio.ServicerContext
    ) -> pb.ClearShadowResponse:
        async with self._turn:
            version = self._shadow.version if self._shadow else ""
            if version:
                await self._audit(str(peer_id(context)), "shadow.cleared", version)
            await self._around.shadows.clear_shadow()
            self._put(None, None)
        return pb.ClearShadowResponse(version=version)

    async def GetShadow(  # noqa: N802 - the name is the proto's
        self, request: pb.GetShadowRequest, context: grpc.aio.ServicerContext
    ) -> pb.GetShadowResponse:
        if self._shadow is None:
            return pb.GetShadowResponse()
        return _status(self._shadow, self._counts)

    async def WatchShadow(  # noqa: N802 - the name is the proto's
        self, request: pb.WatchShadowRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.WatchShadowResponse]:
        sent = ""
        while not self._closed:
            mark, snapshot = self._changes.mark(), self._snapshot
            again = snapshot.version == sent
            yield pb.WatchShadowResponse(version=sent) if again else snapshot
            sent = snapshot.version
            await self._changes.since(mark)

    async def ReportShadow(  # noqa: N802 - the name is the proto's
        self, request: pb.ReportShadowRequest, context: grpc.aio.ServicerContext
    ) -> pb.ReportShadowResponse:
        self._counts.heard(request.router[:64], _report(request))
        return pb.ReportShadowResponse()

    async def _set(self, policy: Policy, content: bytes, actor: str) -> None:
        now_unix_s = self._around.now_unix_s()
        shadow = Shadow(policy.version, now_unix_s, actor, len(policy.tenants))
        await self._audit(actor, "shadow.set", policy.version)
        await self._around.shadows.set_shadow(shadow, content)
        self._put(shadow, policy)

    async def _audit(self, actor: str, action: str, version: str) -> None:
        await self._around.audit.record(Deed(actor=actor, action=action, subject=version))

    def _put(self, shadow: Shadow | None, policy: Policy | None) -> None:
        version = shadow.version if shadow else ""
        snapshot = encode(policy) if policy else None
        self._shadow = shadow
        self._snapshot = pb.WatchShadowResponse(version=version, snapshot=snapshot)
        self._counts = ShadowCounts(version)
        self._changes.wake()


def served(servicer: ShadowServicer) -> Served:
    add_to = partial(pb_grpc.add_ShadowServiceServicer_to_server, servicer)
    return Served(SERVICE, CALLERS, add_to, ERRORS)


def _status(shadow: Shadow, counts: ShadowCounts) -> pb.GetShadowResponse:
    total = counts.total()
    shown = list(total.requests.items())[:MOST_KINDS]
    return pb.GetShadowResponse(
        version=shadow.version,
        since=timestamp(shadow.since_unix_s),
        actor=shadow.actor,
        routers=counts.routers,
        judged=total.judged,
        different=sum(total.requests.values()),
        failed=total.failed,
        differences=[
            pb.ShadowDifference(
                live=kind.live,
                shadow=kind.shadow,
                tenant=kind.tenant,
                requests=requests,
                examples=total.examples.get(kind, ()),
            )
            for kind, requests in shown
        ],
    )


def _report(request: pb.ReportShadowRequest) -> Report:
    told = [
        (Kind(each.live, each.shadow, each.tenant), each)
        for each in request.differences[:MOST_KINDS]
    ]
    return Report(
        request.version,
        judged=request.judged,
        failed=request.failed,
        requests={kind: each.requests for kind, each in told},
        examples={kind: tuple(each.examples) for kind, each in told},
    )
