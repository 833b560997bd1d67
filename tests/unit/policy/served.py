"""A policy service that runs, over real mTLS connections."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc

from evenflow.policy.v1 import tenant_service_pb2 as pb
from evenflow.policy.v1.key_service_pb2_grpc import KeyServiceStub
from evenflow.policy.v1.tenant_service_pb2_grpc import TenantServiceStub
from services.chassis.environ import address
from services.chassis.identity import TlsFiles, channel
from services.chassis.server import Server
from services.policy import policies
from services.policy.core.audit import Audit
from services.policy.core.dry_run import Decisions
from services.policy.core.keys import KeyStore
from services.policy.core.tenants import Policy
from services.policy.inbound import keys, tenants
from services.policy.inbound.keys import KeyServicer, Making
from services.policy.inbound.tenants import TenantServicer
from services.policy.main import build_server
from services.policy.outbound.database import Database
from services.policy.outbound.policy_file import policy_of
from services.policy.policies import Around, Policies
from services.policy.served import Served as Part
from tests.fakes.kept_audit import KeptAudit
from tests.fakes.kept_keys import KeptKeys
from tests.fakes.no_decisions import NoDecisions
from tests.identities import Identities
from tests.unit.policy.policies import DOMAIN, policy

FIRST = policy("v1", "acme")
KEY_SECRET = bytes(range(32))
NOW_UNIX_S = 1_800_000_000.0
NONE, KEPT = NoDecisions(), KeptAudit()
read = partial(policy_of, trust_domain=DOMAIN)


class Served:
    """A running policy service, and how to be one of its callers."""

    def __init__(self, parts: "Parts", where: str, identities: Identities) -> None:
        self.servicer = parts.servicer
        self.parts = parts
        self.where = where
        self.identities = identities
        self.audit = KeptAudit()

    @asynccontextmanager
    async def keys(self, caller: str = "operator") -> AsyncIterator[Any]:
        async with self._channel(self.identities.service(caller)) as calls:
            yield KeyServiceStub(calls)

    @asynccontextmanager
    async def watching(self, caller: str = "router", **options: int) -> AsyncIterator[Any]:
        async with self._channel(self.identities.service(caller), **options) as calls:
            yield TenantServiceStub(calls).WatchTenants(pb.WatchTenantsRequest(), timeout=10)

    def file_says(self, content: str) -> Policy:
        """As if it had been written to the file."""
        policy = read(content.encode())
        self.parts.policies.in_force.took(policy, content.encode())
        return policy

    @asynccontextmanager
    async def calls(self, caller: str = "operator") -> AsyncIterator[grpc.aio.Channel]:
        async with self._channel(self.identities.service(caller)) as calls:
            yield calls

    @asynccontextmanager
    async def watching_as_tenant(self) -> AsyncIterator[Any]:
        async with self._channel(self.identities.tenant("acme")) as calls:
            yield TenantServiceStub(calls).WatchTenants(pb.WatchTenantsRequest(), timeout=10)

    def _channel(self, tls: TlsFiles, **options: int) -> grpc.aio.Channel:
        return channel(
            self.where,
            tls,
            server="policy",
            options=[(f"grpc.{name}", value) for name, value in options.items()],
        )


def reason_of(error: grpc.aio.AioRpcError) -> str:
    said: dict[str, str | bytes] = dict(error.trailing_metadata() or ())  # type: ignore[arg-type]
    return str(said["x-evenflow-reason"])


@dataclass(frozen=True, slots=True)
class Parts:
    servicer: TenantServicer
    policies: Policies


def _file(current: Policy | str) -> tuple[Policy, bytes]:
    if isinstance(current, Policy):
        return current, b""
    return read(current.encode()), current.encode()


def _new_database(folder: Path) -> Database:
    made = Database(f"sqlite:///{folder}/policy.db")
    made.migrate()
    return made


def _making(store: KeyStore, audit: Audit, now_unix_s: Callable[[], float]) -> Making:
    return Making(
        store=store,
        audit=audit,
        key_secret=KEY_SECRET,
        chance=secrets.token_bytes,
        now_unix_s=now_unix_s,
    )


async def _started(server: Server, tls: TlsFiles) -> str:
    port = server.listen(address("127.0.0.1:0"), tls)
    await server.grpc.start()
    return f"127.0.0.1:{port}"


@asynccontextmanager
async def serving(
    folder: Path,
    current: Policy | str = FIRST,
    *,
    heartbeat_s: float = 5.0,
    database: Database | None = None,
    decisions: Decisions = NONE,
    audit: Audit = KEPT,
    store: KeyStore | None = None,
    besides: Sequence[Part] = (),
    now_unix_s: Callable[[], float] = lambda: NOW_UNIX_S,
) -> AsyncIterator[Served]:
    """`database`: with its tables; without one, it is a new one in the folder."""
    identities = Identities(folder)
    tls = identities.service("policy")
    file = _file(current)
    store = store or KeptKeys()
    servicer = TenantServicer(file[0], heartbeat_s=heartbeat_s, keys=await store.read())
    kept = database or _new_database(folder)
    around = Around(
        database=kept,
        audit=audit,
        decisions=decisions,
        read=read,
        publish=servicer.publish,
        repinned=lambda: None,
        now_unix_s=now_unix_s,
        clock=asyncio.get_running_loop().time,
        heartbeat_s=heartbeat_s,
    )
    made = policies.made(around, file)
    await made.begin()
    running = Served(Parts(servicer, made), "", identities)
    of_keys = keys.served(KeyServicer(servicer, _making(store, running.audit, now_unix_s)))
    server = build_server([tenants.served(servicer), of_keys, *made.served, *besides], tls)
    running.where = await _started(server, tls)
    tasks = await asyncio.TaskGroup().__aenter__()
    books = tasks.create_task(made.in_force.keep_books())
    try:
        yield running
    finally:
        books.cancel()
        await tasks.__aexit__(None, None, None)  # a test's own exception passes as it is
        await server.grpc.stop(None)
        if database is None:
            kept.close()
