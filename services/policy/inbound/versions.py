"""Tells operators which policies were in force, and puts an earlier one back at their word."""

from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Protocol

import grpc

from evenflow.policy.v1 import version_service_pb2 as pb
from evenflow.policy.v1 import version_service_pb2_grpc as pb_grpc
from services.chassis.callers import AllowedCallers
from services.chassis.identity import peer_id
from services.chassis.logs import add_facts
from services.chassis.status import ErrorTable, Status
from services.policy.core.tenants import Policy
from services.policy.core.versions import (
    Cause,
    Enforced,
    FileChanged,
    Pin,
    VersionInvalid,
    VersionNotFound,
)
from services.policy.inbound.times import timestamp
from services.policy.served import Served

SERVICE: str = pb.DESCRIPTOR.services_by_name["VersionService"].full_name
CALLERS: AllowedCallers = {f"/{SERVICE}/": frozenset({"operator"})}
ERRORS: ErrorTable = {
    VersionNotFound: Status(grpc.StatusCode.NOT_FOUND, "POLICY_VERSION_NOT_FOUND"),
    VersionInvalid: Status(grpc.StatusCode.FAILED_PRECONDITION, "POLICY_INVALID"),
    FileChanged: Status(grpc.StatusCode.ABORTED, "POLICY_FILE_CHANGED"),
}

_FEW, _MOST = 100, 1_000
_PART_BYTES = 1 << 20

_CAUSES = {
    Cause.FILE: pb.POLICY_CAUSE_FILE,
    Cause.ROLL_BACK: pb.POLICY_CAUSE_ROLL_BACK,
    Cause.FOLLOW: pb.POLICY_CAUSE_FOLLOW,
}


class Books(Protocol):
    """Each call raises DatabaseUnreachable."""

    async def latest(self, most: int) -> Sequence[Enforced]:
        """The latest first."""

    async def content(self, name: str) -> tuple[str, bytes]:
        """Raises VersionNotFound."""


class InForce(Protocol):
    @property
    def policy(self) -> Policy: ...

    @property
    def file_version(self) -> str: ...

    @property
    def pin(self) -> Pin | None: ...

    async def roll_back(self, name: str, actor: str) -> str:
        """The version that is in force now."""

    async def follow(self, actor: str) -> str:
        """Likewise."""


class VersionServicer(pb_grpc.VersionServiceServicer):
    def __init__(self, in_force: InForce, books: Books) -> None:
        self._in_force = in_force
        self._books = books

    async def ListVersions(  # noqa: N802 - the name is the proto's
        self, request: pb.ListVersionsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListVersionsResponse:
        wanted = request.most if request.most > 0 else _FEW
        versions = await self._books.latest(min(wanted, _MOST))
        pin = self._in_force.pin
        return pb.ListVersionsResponse(
            in_force=self._in_force.policy.version,
            file=self._in_force.file_version,
            pin=_pin(pin) if pin is not None else None,
            versions=[_version(each) for each in versions],
        )

    async def GetVersion(  # noqa: N802 - the name is the proto's
        self, request: pb.GetVersionRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.GetVersionResponse]:
        version, content = await self._books.content(request.version)
        for start in range(0, max(1, len(content)), _PART_BYTES):
            part = content[start : start + _PART_BYTES]
            yield pb.GetVersionResponse(version=version, content=part)

    async def RollBack(  # noqa: N802 - the name is the proto's
        self, request: pb.RollBackRequest, context: grpc.aio.ServicerContext
    ) -> pb.RollBackResponse:
        before = self._in_force.policy.version
        version = await self._in_force.roll_back(request.version, str(peer_id(context)))
        add_facts(version=version)
        return pb.RollBackResponse(version=version, before=before)

    async def ReleasePin(  # noqa: N802 - the name is the proto's
        self, request: pb.ReleasePinRequest, context: grpc.aio.ServicerContext
    ) -> pb.ReleasePinResponse:
        before = self._in_force.policy.version
        version = await self._in_force.follow(str(peer_id(context)))
        add_facts(version=version)
        return pb.ReleasePinResponse(version=version, before=before)


def served(servicer: VersionServicer) -> Served:
    add_to = partial(pb_grpc.add_VersionServiceServicer_to_server, servicer)
    return Served(SERVICE, CALLERS, add_to, ERRORS)


def _version(each: Enforced) -> pb.PolicyVersion:
    return pb.PolicyVersion(
        version=each.version,
        since=timestamp(each.since_unix_s),
        cause=_CAUSES[each.cause],
        actor=each.actor,
        tenants=each.tenants,
        content_bytes=each.content_bytes,
    )


def _pin(pin: Pin) -> pb.PolicyPin:
    return pb.PolicyPin(
        version=pin.version,
        file_version=pin.file_version,
        since=timestamp(pin.since_unix_s),
        actor=pin.actor,
    )
