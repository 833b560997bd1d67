"""What was decided is in the audit log once, whoever is killed and whatever disk is full."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.local.aside import free_port
from evenflow.audit_lines import ENTRY_BEGINS
from evenflow.audit_signing import public_keys
from evenflow.audit_verifying import PUBLIC_KEYS, verify_folder
from evenflow.policy.v1 import audit_service_pb2 as pb
from evenflow.policy.v1.audit_service_pb2_grpc import AuditServiceStub
from evenflow.router.v1.router_service_pb2_grpc import RouterServiceStub
from services.chassis.identity import channel
from tests import processes
from tests.identities import TRUST_DOMAIN, audit_key_in
from tests.integration.faults.disks import disk
from tests.unit.router.test_process import Peers, ready
from tests.unit.router.test_servers import asked_over
from tests.unit.router.values import check_request, generate, state

pytestmark = pytest.mark.integration

HIGH_RISK = 3
REFUSED = 463  # Envoy makes 503 of it
TENANTS = f"""\
tenants:
  - id: acme
    spiffe_ids: [spiffe://{TRUST_DOMAIN}/tenant/acme/*]
    models: ["*"]
    workload_classes: [interactive, high_risk]
    default_workload_class: interactive
"""


class Audited:
    """Policy and a router as processes, which a test kills and starts again."""

    def __init__(self, folder: Path, environ: Mapping[str, str], peers: Peers) -> None:
        self._folder = folder
        self._peers = peers
        self._policy_at = f"127.0.0.1:{free_port()}"
        self._operator = peers.identities.service("operator")
        peers.identities.service("policy")
        (folder / "tenants.yaml").write_text(TENANTS)
        self._policy_environ = {
            "POLICY_LISTEN": self._policy_at,
            "POLICY_FILE": str(folder / "tenants.yaml"),
            "POLICY_TRUST_DOMAIN": TRUST_DOMAIN,
            "POLICY_TLS": str(folder / "service/policy"),
            "POLICY_DATABASE": f"sqlite:///{folder}/policy.db",
            "POLICY_KEY_SECRET_FILE": str(folder / "key-secret"),
            "POLICY_AUDIT": str(folder / "audit"),
            "POLICY_AUDIT_KEY_FILE": str(audit_key_in(folder)),
        }
        self._router_environ = {**environ, "ROUTER_POLICY": self._policy_at}

    @asynccontextmanager
    async def policy(self) -> AsyncIterator[None]:
        async with processes.service("services.policy", self._policy_environ):
            await processes.serving(self._policy_at, self._operator, server="policy")
            yield

    @asynccontextmanager
    async def router(self) -> AsyncIterator[None]:
        peers = self._peers
        for _ in range(3):  # streams to a router that was killed may take one with them
            peers.runtime.say(state())
        async with processes.service("services.router", self._router_environ):
            await processes.serving(peers.operator, self._operator, server="router")
            async with channel(peers.operator, self._operator, server="router") as calls:
                await ready(RouterServiceStub(calls))
            yield

    async def ask(self, *names: str, workload_class: int = 0) -> list[int]:
        transport = httpx.AsyncHTTPTransport(uds=self._peers.check_socket)
        async with httpx.AsyncClient(transport=transport, base_url="http://router") as check:
            body = generate(workload_class=workload_class)
            asked = [check_request(body, x_request_id=name) for name in names]
            return [(await asked_over(check, each)).status_code for each in asked]

    async def told(self, until: str) -> Sequence[Mapping[str, Any]]:
        """Of requests and gaps, once that request is among them."""
        async with channel(self._policy_at, self._operator, server="policy") as calls:
            while True:
                call = AuditServiceStub(calls).ReadAudit(pb.ReadAuditRequest(), timeout=20)
                lines = [line async for each in call for line in each.lines]
                entries = [json.loads(each) for each in lines if each.startswith(ENTRY_BEGINS)]
                found = [
                    each
                    for each in entries
                    if each["action"].startswith("request.") or each["action"] == "audit.gap"
                ]
                if any(each["subject"] == until for each in found):
                    return found

    def verify(self) -> int:
        folder = self._folder / "audit"
        return verify_folder(
            folder, public_keys(each.read_bytes() for each in folder.glob(PUBLIC_KEYS))
        ).last


def names(prefix: str) -> list[str]:
    return [f"{prefix}-{at}" for at in range(20)]


def test_each_decision_is_in_it_once_though_both_are_killed(tmp_path: Path) -> None:
    async def scenario() -> tuple[Sequence[Mapping[str, Any]], int]:
        peers = Peers(tmp_path)
        async with asyncio.timeout(120), peers.serving() as environ:
            audited = Audited(tmp_path, environ, peers)
            async with AsyncExitStack() as router:
                async with audited.policy():
                    await router.enter_async_context(audited.router())
                    await audited.ask(*names("both"))
                await audited.ask(*names("policy-away"))
            async with audited.policy(), audited.router():
                await audited.ask(*names("again"))
                return await audited.told("again-19"), audited.verify()

    told, last = asyncio.run(scenario())

    expected = [*names("both"), *names("policy-away"), *names("again")]
    assert Counter(each["subject"] for each in told) == Counter(expected)
    assert last >= 60


def test_high_risk_requests_are_refused_while_the_disk_is_full(tmp_path: Path) -> None:
    async def scenario() -> tuple[list[int], Sequence[Mapping[str, Any]]]:
        peers = Peers(tmp_path)
        with disk(size_mb=2) as small:
            async with asyncio.timeout(120), peers.serving() as environ:
                spool = {"ROUTER_AUDIT_SPOOL": str(small.folder / "spool")}
                audited = Audited(tmp_path, {**environ, **spool}, peers)
                async with audited.policy(), audited.router():
                    said = await audited.ask("before", workload_class=HIGH_RISK)
                    await audited.told("before")
                    small.fill()
                    await audited.ask(*names("last-page"))  # which the disk has for it yet
                    said += await audited.ask("risky", workload_class=HIGH_RISK)
                    said += await audited.ask("other")
                    small.make_room()
                    said += await audited.ask("after", workload_class=HIGH_RISK)
                    return said, await audited.told("after")

    said, told = asyncio.run(scenario())

    assert said == [200, REFUSED, 200, 200]
    gaps = [each for each in told if each["action"] == "audit.gap"]
    missing = sum(int(each["facts"]["missing"]) for each in gaps)
    assert missing >= 2
    assert len(told) - len(gaps) + missing == 1 + 20 + 3  # each is there, or said to be missing
    assert told[-1]["subject"] == "after"
