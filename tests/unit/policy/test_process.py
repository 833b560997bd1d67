"""The service as a process: it starts, follows its file, drains, and refuses a bad start."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc

from deploy.local.aside import free_port
from evenflow.policy.v1 import tenant_service_pb2 as pb
from evenflow.policy.v1.policy_service_pb2 import CheckPolicyRequest
from evenflow.policy.v1.policy_service_pb2_grpc import PolicyServiceStub
from evenflow.policy.v1.tenant_service_pb2_grpc import TenantServiceStub
from evenflow.policy.v1.version_service_pb2 import ListVersionsRequest, RollBackRequest
from evenflow.policy.v1.version_service_pb2_grpc import VersionServiceStub
from services.chassis.identity import channel
from services.policy.main import FILE_HEALTH, FOLLOWING_HEALTH
from tests import processes
from tests.identities import TRUST_DOMAIN, Identities, audit_key_in
from tests.unit.policy.policies import ACME, GLOBEX


def environ(tmp_path: Path, port: int) -> dict[str, str]:
    (tmp_path / "key-secret").write_text("0123456789abcdef" * 4)
    return {
        "POLICY_LISTEN": f"127.0.0.1:{port}",
        "POLICY_FILE": str(tmp_path / "tenants.yaml"),
        "POLICY_TRUST_DOMAIN": TRUST_DOMAIN,
        "POLICY_TLS": str(tmp_path / "service/policy"),
        "POLICY_DATABASE": f"sqlite:///{tmp_path}/policy.db",
        "POLICY_KEY_SECRET_FILE": str(tmp_path / "key-secret"),
        "POLICY_AUDIT": str(tmp_path / "audit"),
        "POLICY_AUDIT_KEY_FILE": str(audit_key_in(tmp_path)),
    }


def test_it_follows_its_file_and_drains_when_told(tmp_path: Path) -> None:
    file, port = tmp_path / "tenants.yaml", free_port()
    where, identities = f"127.0.0.1:{port}", Identities(tmp_path)
    identities.service("policy")
    router = identities.service("router")
    file.write_text(ACME)

    async def scenario() -> tuple[list[int], int]:
        counts = []
        async with processes.service("services.policy", environ(tmp_path, port)) as process:
            await processes.serving(where, router, server="policy")
            async with channel(where, router, server="policy") as calls:
                call = TenantServiceStub(calls).WatchTenants(pb.WatchTenantsRequest(), timeout=20)
                counts.append(await next_count(call))
                file.write_text(ACME[:-60])
                await processes.not_serving(where, router, server="policy", part=FILE_HEALTH)
                file.write_text(ACME + GLOBEX)
                counts.append(await next_count(call))
                await processes.serving(where, router, server="policy", part=FILE_HEALTH)
                process.terminate()
                return counts, await process.wait()

    assert asyncio.run(scenario()) == ([1, 2], 0)


def test_an_operator_asks_it_about_its_file_and_another(tmp_path: Path) -> None:
    port = free_port()
    where, identities = f"127.0.0.1:{port}", Identities(tmp_path)
    identities.service("policy")
    operator = identities.service("operator")
    (tmp_path / "tenants.yaml").write_text(ACME)

    async def scenario() -> list[bool]:
        async with processes.service("services.policy", environ(tmp_path, port)):
            await processes.serving(where, operator, server="policy")
            async with channel(where, operator, server="policy") as calls:
                check = PolicyServiceStub(calls).CheckPolicy
                asked = [
                    CheckPolicyRequest(content=each.encode()) for each in (ACME, ACME + GLOBEX)
                ]
                return [(await check(each, timeout=20)).in_force for each in asked]

    assert asyncio.run(scenario()) == [True, False]


def test_a_pin_outlives_a_kill_and_shows_in_its_health(tmp_path: Path) -> None:
    file, port = tmp_path / "tenants.yaml", free_port()
    where, identities = f"127.0.0.1:{port}", Identities(tmp_path)
    identities.service("policy")
    operator = identities.service("operator")
    file.write_text(ACME)

    async def scenario() -> None:
        async with processes.service("services.policy", environ(tmp_path, port)) as process:
            await processes.serving(where, operator, server="policy", part=FOLLOWING_HEALTH)
            async with channel(where, operator, server="policy") as calls:
                versions = VersionServiceStub(calls)
                first = (await versions.ListVersions(ListVersionsRequest(), timeout=20)).in_force
                file.write_text(ACME + GLOBEX)
                await in_force(calls, lambda version: version != first)
                await versions.RollBack(RollBackRequest(version=first), timeout=20)
            await processes.not_serving(where, operator, server="policy", part=FOLLOWING_HEALTH)
            process.kill()
        async with processes.service("services.policy", environ(tmp_path, port)):
            await processes.serving(where, operator, server="policy")
            await processes.not_serving(where, operator, server="policy", part=FOLLOWING_HEALTH)
            async with channel(where, operator, server="policy") as calls:
                await in_force(calls, lambda version: version == first)
                file.write_text(ACME.replace("512", "256"))
                await in_force(calls, lambda version: version != first)
            await processes.serving(where, operator, server="policy", part=FOLLOWING_HEALTH)

    asyncio.run(scenario())


async def in_force(calls: grpc.aio.Channel, wanted: Callable[[str], bool]) -> None:
    """Once such a version is."""
    versions = VersionServiceStub(calls)
    async with asyncio.timeout(20):
        while True:
            told = await versions.ListVersions(ListVersionsRequest(), timeout=20)
            if wanted(told.in_force):
                return
            await asyncio.sleep(0.05)


async def next_count(call: Any) -> int:
    """Of the next message that is no sign of life alone."""
    while True:
        response = await call.read()
        if response.tenants:
            return len(response.tenants)


def test_a_bad_file_at_start_is_printed_and_ends_it(tmp_path: Path) -> None:
    (tmp_path / "tenants.yaml").write_text(ACME.replace("models:", "model:"))

    async def scenario() -> tuple[int, str]:
        async with processes.service("services.policy", environ(tmp_path, 0)) as process:
            _, printed = await process.communicate()
            return await process.wait(), printed.decode()

    code, printed = asyncio.run(scenario())

    assert code == 78
    assert "line 8, column 5: tenants[0].model: unknown field 'model'" in printed


def test_a_damaged_list_of_revoked_certificates_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "tenants.yaml").write_text(ACME)
    folder = Identities(tmp_path).service("policy").certificate.parent
    (folder / "crl.pem").write_text("no list")

    async def scenario() -> tuple[int | None, bytes]:
        async with processes.service("services.policy", environ(tmp_path, free_port())) as process:
            _, printed = await process.communicate()
            return process.returncode, printed

    code, printed = asyncio.run(scenario())
    assert code == 1
    _loaded, *said = printed.decode().splitlines()
    assert said == [f"{folder / 'crl.pem'}: expected one or more lists (PEM, X509 CRL)"]
