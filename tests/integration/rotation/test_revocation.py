"""A revoked certificate is refused everywhere within about a second; others notice nothing."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

from evenflow.certificates import issue, read_authority
from evenflow.cli.certs import revoke_certificate
from evenflow.client import Client
from evenflow.errors import EvenflowError, Refused, Unreachable
from evenflow.home import authority_folder, service_folder, service_id, tenant_id
from services.chassis.identity import TlsFiles, channel
from tests.integration.faults.streams import Load
from tests.integration.whole.mesh import LOOK_EVERY_S, Mesh, running

STREAMS = 4
TOKENS = 400  # 8 s
WITHIN_S = 5.0  # it is one second and a bit; the rest is for a machine that is busy
PYTHON = ("router", "policy", "telemetry", "runtime")


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    environ = {"RUNTIME_SIMULATED_STEP_S": "0.02"}
    with running(command="simulate", model="simulated", environ=environ) as started:
        yield started


def issued(mesh: Mesh, spiffe_id: str, folder: Path) -> Path:
    """Another certificate of an identity that has one."""
    issue(read_authority(authority_folder(mesh.home)), spiffe_id, (), folder)
    return folder


async def is_let_in(mesh: Mesh, folder: Path) -> bool:
    """Over a new connection."""
    try:
        async with Client(mesh.address, certificate_folder=folder) as client:
            await client.list_models(deadline_s=5)
    except Unreachable:
        return False
    return True


async def meets_the_list(mesh: Mesh, folder: Path) -> bool:
    """Whether Envoy refuses a new connection. The router may have read the list before it has."""
    try:
        return not await is_let_in(mesh, folder)
    except Refused as error:
        assert error.reason == "CERTIFICATE_REVOKED"  # noqa: PT017 - any other fails
        return False


@asynccontextmanager
async def at_last() -> AsyncIterator[Any]:
    """What awaits in it a pause between two looks has WITHIN_S in all."""
    async with asyncio.timeout(WITHIN_S):
        yield lambda: asyncio.sleep(LOOK_EVERY_S)


async def refused_at_last(connected: Client) -> None:
    """Over a connection that is open, where no handshake looks at the list."""
    async with at_last() as pause:
        while True:
            try:
                await connected.list_models(deadline_s=5)
            except Refused as error:
                assert error.reason == "CERTIFICATE_REVOKED"  # noqa: PT017 - any other fails
                return
            await pause()


def test_a_revoked_certificate_asks_for_nothing_more_and_its_streams_are_cut(
    mesh: Mesh, tmp_path: Path
) -> None:
    bad = issued(mesh, tenant_id("acme"), tmp_path / "bad")

    async def run() -> float:
        under_way = [
            Load(mesh.address, folder, mesh.model, tokens=TOKENS)
            for folder in (bad, mesh.tenant("acme"))
        ]
        async with (
            under_way[0].running(STREAMS),
            under_way[1].running(STREAMS),
            Client(mesh.address, certificate_folder=bad) as connected,
        ):
            for load in under_way:
                await load.until_streaming(STREAMS, within_s=WITHIN_S)
                load.stop()
            assert await is_let_in(mesh, bad)
            await connected.list_models(deadline_s=5)

            await asyncio.to_thread(revoke_certificate, bad, home=mesh.home)

            revoked_at_s = time.monotonic()
            async with at_last() as pause:
                while not await meets_the_list(mesh, bad):
                    await pause()
            took_s = time.monotonic() - revoked_at_s
            assert await is_let_in(mesh, mesh.tenant("acme"))
            await refused_at_last(connected)
            cut, others = (load.streams for load in under_way)
            async with at_last() as pause:
                while any(each.ended_s is None for each in cut):
                    await pause()
            assert all(each.ended_s is None for each in others)
        assert {_reason(each.error) for each in cut} == {"CERTIFICATE_REVOKED"}
        assert [each.error for each in others if each.error is not None] == []
        return took_s

    print(f"refused after {asyncio.run(run()):.2f} s")
    assert asyncio.run(is_let_in(mesh, issued(mesh, tenant_id("acme"), bad)))


def _reason(error: EvenflowError | None) -> str:
    return error.reason if isinstance(error, Refused) else repr(error)


async def answer(service: str, port: int, folder: Path) -> grpc.StatusCode:
    """A server's to a question that is open to all, over a new connection."""
    tls = TlsFiles.in_folder(folder)
    async with channel(f"127.0.0.1:{port}", tls, server=service) as calls:
        stub: Any = HealthStub(calls)
        try:
            await stub.Check(HealthCheckRequest(), timeout=5)
        except grpc.aio.AioRpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def metrics_status(mesh: Mesh, folder: Path) -> int:
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    context.check_hostname = False  # the certificate names telemetry.evenflow.local
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    with httpx.Client(verify=context, trust_env=False) as client:
        return client.get(f"https://127.0.0.1:{mesh.prometheus_port}/metrics").status_code


def test_a_revoked_service_is_refused_by_every_server(mesh: Mesh, tmp_path: Path) -> None:
    bad = issued(mesh, service_id("operator"), tmp_path / "bad")
    good = service_folder(mesh.home, "operator")
    servers = [(service, port) for service in PYTHON for port in mesh.ports(service)]

    async def run() -> None:
        assert {await answer(*each, bad) for each in servers} == {grpc.StatusCode.OK}

        await asyncio.to_thread(revoke_certificate, bad / "cert.pem", home=mesh.home)

        async with at_last() as pause:
            while {await answer(*each, bad) for each in servers} != {
                grpc.StatusCode.UNAUTHENTICATED
            }:
                await pause()
        assert {await answer(*each, good) for each in servers} == {grpc.StatusCode.OK}

    asyncio.run(run())
    assert [metrics_status(mesh, folder) for folder in (bad, good)] == [403, 200]
    assert asyncio.run(is_let_in(mesh, mesh.tenant("globex")))
