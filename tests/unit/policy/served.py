"""A policy service that runs, over real mTLS connections."""

import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc

from evenflow.policy.v1 import tenant_service_pb2 as pb
from evenflow.policy.v1.key_service_pb2_grpc import KeyServiceStub
from evenflow.policy.v1.tenant_service_pb2_grpc import TenantServiceStub
from services.chassis.environ import address
from services.chassis.identity import TlsFiles, channel
from services.policy.core.keys import KeyStore
from services.policy.core.tenants import Policy
from services.policy.inbound import checking as policies
from services.policy.inbound import keys, tenants
from services.policy.inbound.checking import PolicyServicer
from services.policy.inbound.keys import KeyServicer, Making
from services.policy.inbound.tenants import TenantServicer
from services.policy.main import build_server
from services.policy.outbound.policy_file import policy_of
from services.policy.served import Served as Part
from tests.fakes.kept_audit import KeptAudit
from tests.fakes.kept_keys import KeptKeys
from tests.identities import Identities
from tests.unit.policy.policies import DOMAIN, policy

FIRST = policy("v1", "acme")
KEY_SECRET = bytes(range(32))
NOW_UNIX_S = 1_800_000_000.0
read = partial(policy_of, trust_domain=DOMAIN)


class Served:
    """A running policy service, and how to be one of its callers."""

    def __init__(self, servicer: TenantServicer, where: str, identities: Identities) -> None:
        self.servicer = servicer
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


@asynccontextmanager
async def serving(
    folder: Path,
    current: Policy = FIRST,
    *,
    heartbeat_s: float = 5.0,
    store: KeyStore | None = None,
    besides: Sequence[Part] = (),
    now_unix_s: Callable[[], float] = lambda: NOW_UNIX_S,
) -> AsyncIterator[Served]:
    identities = Identities(folder)
    tls = identities.service("policy")
    store = store or KeptKeys()
    servicer = TenantServicer(current, heartbeat_s=heartbeat_s, keys=await store.read())
    checking = PolicyServicer(read, lambda: servicer.version)
    made = Served(servicer, "", identities)
    making = Making(
        store=store,
        audit=made.audit,
        key_secret=KEY_SECRET,
        chance=secrets.token_bytes,
        now_unix_s=now_unix_s,
    )
    of_keys = keys.served(KeyServicer(servicer, making))
    parts = [tenants.served(servicer), policies.served(checking), of_keys, *besides]
    server = build_server(parts, tls)
    port = server.listen(address("127.0.0.1:0"), tls)
    await server.grpc.start()
    made.where = f"127.0.0.1:{port}"
    try:
        yield made
    finally:
        await server.grpc.stop(None)
