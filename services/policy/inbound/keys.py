"""Makes, rotates and revokes API keys for operators, and tells routers at once.

Each deed is in the audit log before it is done: what nobody wrote down can't have happened. One
whose end is not known is written down again, as such.
"""

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from evenflow.policy.v1 import key_service_pb2 as pb
from evenflow.policy.v1 import key_service_pb2_grpc as pb_grpc
from services.chassis.callers import AllowedCallers
from services.chassis.identity import peer_id
from services.chassis.logs import add_facts
from services.chassis.status import ErrorTable, Status
from services.policy.core.audit import Audit, AuditUnavailable, Deed
from services.policy.core.keys import (
    PREFIX,
    SECRET_BYTES,
    InvalidKeyRequest,
    Key,
    KeyExists,
    KeyInFile,
    KeyNotFound,
    Keys,
    KeyStore,
    Secret,
    checked_name,
    end_of,
    hashed,
    is_in_file,
    owner_of,
    rotated,
)
from services.policy.inbound.tenants import TenantServicer
from services.policy.served import Served

SERVICE: str = pb.DESCRIPTOR.services_by_name["KeyService"].full_name
CALLERS: AllowedCallers = {f"/{SERVICE}/": frozenset({"operator"})}
ERRORS: ErrorTable = {
    InvalidKeyRequest: Status(grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID"),
    KeyExists: Status(grpc.StatusCode.ALREADY_EXISTS, "KEY_EXISTS"),
    KeyNotFound: Status(grpc.StatusCode.NOT_FOUND, "KEY_NOT_FOUND"),
    KeyInFile: Status(grpc.StatusCode.FAILED_PRECONDITION, "KEY_IN_FILE"),
}
_REFUSALS = tuple(ERRORS)

_SHOWN = 63  # characters of a name that a caller made up, in the audit log
_ID_BYTES = 4  # of chance in the id of a key that was given none


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """What keys are made of and kept in. `chance` gives so many random bytes."""

    store: KeyStore
    audit: Audit
    key_secret: bytes
    chance: Callable[[int], bytes]
    now_unix_s: Callable[[], float]


class KeyServicer(pb_grpc.KeyServiceServicer):
    """`tenants` knows the policy and the keys that are in force, and tells routers of them."""

    def __init__(self, tenants: TenantServicer, making: Making) -> None:
        self._tenants = tenants
        self._store = making.store
        self._audit = making.audit
        self._making = making

    async def CreateKey(  # noqa: N802 - the name is the proto's
        self, request: pb.CreateKeyRequest, context: grpc.aio.ServicerContext
    ) -> pb.CreateKeyResponse:
        deed = _deed(context, "key.created", request.tenant, request.id)
        async with self._refusals_told(deed):
            secret = self._secret()
            key = self._made(request, secret)
            add_facts(tenant=key.tenant, key=key.id)
            told = replace(deed, subject=f"{key.tenant}/{key.id}", facts=_facts(key))
            await self._do(told, partial(self._store.add, key))
        return pb.CreateKeyResponse(key=self._shown(key), secret=secret)

    async def RotateKey(  # noqa: N802 - the name is the proto's
        self, request: pb.RotateKeyRequest, context: grpc.aio.ServicerContext
    ) -> pb.RotateKeyResponse:
        deed = _deed(context, "key.rotated", request.tenant, request.id)
        async with self._refusals_told(deed):
            owner_of(self._tenants.policy, request.tenant)
            secret = self._secret()
            change = partial(
                rotated,
                secret=hashed(self._making.key_secret, secret),
                overlap_s=_seconds(request.overlap),
                lifetime_s=_seconds(request.lifetime) if request.HasField("lifetime") else None,
                now_unix_s=self._making.now_unix_s(),
            )
            key = change(self._known(request.tenant, request.id))
            add_facts(tenant=key.tenant, key=key.id)
            change_it = partial(self._store.change, key.tenant, key.id, change)
            await self._do(replace(deed, facts=_facts(key)), change_it)
        return pb.RotateKeyResponse(key=self._shown(key), secret=secret)

    async def RevokeKey(  # noqa: N802 - the name is the proto's
        self, request: pb.RevokeKeyRequest, context: grpc.aio.ServicerContext
    ) -> pb.RevokeKeyResponse:
        deed = _deed(context, "key.revoked", request.tenant, request.id)
        async with self._refusals_told(deed):
            key = self._known(request.tenant, request.id)
            add_facts(tenant=key.tenant, key=key.id)
            await self._do(deed, partial(self._store.remove, key.tenant, key.id))
        return pb.RevokeKeyResponse()

    async def ListKeys(  # noqa: N802 - the name is the proto's
        self, request: pb.ListKeysRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListKeysResponse:
        wanted = request.tenant
        shown = [
            each
            for each in (*self._of_file(), *map(self._shown, self._tenants.keys.all))
            if wanted in ("", each.tenant)
        ]
        return pb.ListKeysResponse(keys=sorted(shown, key=lambda key: (key.tenant, key.id)))

    @asynccontextmanager
    async def _refusals_told(self, deed: Deed) -> AsyncIterator[None]:
        try:
            yield
        except _REFUSALS as error:
            await self._audit.record(replace(deed, outcome=ERRORS[type(error)].reason))
            raise

    async def _do(self, deed: Deed, act: Callable[[], Awaitable[Keys]]) -> None:
        """Routers are told before the caller is."""
        await self._audit.record(deed)
        is_known = False
        try:
            self._tenants.publish_keys(await act())
            is_known = True
        except _REFUSALS:
            is_known = True
            raise
        finally:
            if not is_known:  # the database may have done it and not said so
                with suppress(AuditUnavailable, asyncio.CancelledError):
                    await self._audit.record(replace(deed, outcome="unknown"))

    def _secret(self) -> str:
        bits = self._making.chance(SECRET_BYTES)
        return PREFIX + base64.urlsafe_b64encode(bits).decode().rstrip("=")

    def _made(self, request: pb.CreateKeyRequest, secret: str) -> Key:
        policy, now_unix_s = self._tenants.policy, self._making.now_unix_s()
        owner = owner_of(policy, request.tenant)
        workload = checked_name("workload", request.workload)
        id_ = request.id or f"{workload[:50]}-{self._making.chance(_ID_BYTES).hex()}"
        lifetime_s = _seconds(request.lifetime) if request.HasField("lifetime") else None
        key = Key(
            tenant=owner.id,
            id=checked_name("id", id_),
            workload=workload,
            secret=Secret(hashed(self._making.key_secret, secret), end_of(lifetime_s, now_unix_s)),
            created_unix_s=now_unix_s,
        )
        if is_in_file(policy, key.tenant, key.id) or self._find(key.tenant, key.id) is not None:
            raise KeyExists(f"{key.tenant} has a key {key.id!a} already")
        return key

    def _known(self, tenant: str, id_: str) -> Key:
        """What policy has made, or why there is none."""
        key = self._find(tenant, id_)
        if key is not None:
            return key
        if is_in_file(self._tenants.policy, tenant, id_):
            raise KeyInFile(f"{tenant}'s key {id_!a} is in the policy's file; change it there")
        raise KeyNotFound(f"{tenant[:_SHOWN]!a} has no key {id_[:_SHOWN]!a} that policy has made")

    def _find(self, tenant: str, id_: str) -> Key | None:
        keys = self._tenants.keys.all
        return next((each for each in keys if (each.tenant, each.id) == (tenant, id_)), None)

    def _of_file(self) -> Iterable[pb.Key]:
        for tenant in self._tenants.policy.tenants:
            for key in tenant.api_keys:
                yield pb.Key(
                    tenant=tenant.id,
                    id=key.id,
                    workload=key.workload,
                    source=pb.KEY_SOURCE_FILE,
                    state=pb.KEY_STATE_GOOD,
                )

    def _shown(self, key: Key) -> pb.Key:
        now_unix_s, former = self._making.now_unix_s(), key.former
        shown = former is not None and former.is_good(now_unix_s)
        return pb.Key(
            tenant=key.tenant,
            id=key.id,
            workload=key.workload,
            source=pb.KEY_SOURCE_CREATED,
            state=self._state(key, now_unix_s),
            created_at=_timestamp(key.created_unix_s),
            expires_at=_timestamp(key.secret.expires_unix_s),
            rotated_at=_timestamp(key.rotated_unix_s),
            former_until=_timestamp(former.expires_unix_s) if former and shown else None,
        )

    def _state(self, key: Key, now_unix_s: float) -> pb.KeyState.ValueType:
        if not self._tenants.has(key.tenant):
            return pb.KEY_STATE_WITHOUT_TENANT
        is_good = key.secret.is_good(now_unix_s)
        return pb.KEY_STATE_GOOD if is_good else pb.KEY_STATE_EXPIRED


def served(servicer: KeyServicer) -> Served:
    add_to = partial(pb_grpc.add_KeyServiceServicer_to_server, servicer)
    return Served(SERVICE, CALLERS, add_to, ERRORS)


def _deed(context: grpc.aio.ServicerContext, action: str, tenant: str, id_: str) -> Deed:
    tenant = tenant[:_SHOWN]
    return Deed(
        actor=str(peer_id(context)),
        action=action,
        subject=f"{tenant}/{id_[:_SHOWN]}",
        tenant=tenant,
    )


def _facts(key: Key) -> dict[str, str]:
    facts = {"workload": key.workload}
    if key.secret.expires_unix_s is not None:
        facts["expires_unix_s"] = f"{key.secret.expires_unix_s:.0f}"
    if key.former is not None and key.former.expires_unix_s is not None:
        facts["former_until_unix_s"] = f"{key.former.expires_unix_s:.0f}"
    return facts


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9


def _timestamp(unix_s: float | None) -> Timestamp | None:
    if unix_s is None:
        return None
    timestamp = Timestamp()
    timestamp.FromMicroseconds(round(unix_s * 1e6))
    return timestamp
