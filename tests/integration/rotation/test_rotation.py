"""Every certificate and the authority itself are replaced while streams run, and none breaks."""

import asyncio
import socket
import ssl
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from deploy.local.certificates import SERVICES, service_hosts
from evenflow.certificates import Authority, issue, make_authority, read_authority
from evenflow.client import Client
from evenflow.errors import Unreachable
from evenflow.home import authority_folder, service_folder, service_id, tenant_folder, tenant_id
from tests.integration.faults.streams import Load, Stream
from tests.integration.whole.mesh import Mesh, running
from tests.integration.whole.programs import until

STREAMS = 8
TOKENS = 600  # 12 s: longer than all of the rotation
WITHIN_S = 10.0
TENANTS = ("acme", "globex")


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    environ = {"RUNTIME_SIMULATED_STEP_S": "0.02"}
    with running(command="simulate", model="simulated", environ=environ) as started:
        yield started


def issue_all(home: Path, authority: Authority) -> None:
    for service in SERVICES:
        folder = service_folder(home, service)
        issue(authority, service_id(service), service_hosts(service), folder)
    for tenant in TENANTS:
        issue(authority, tenant_id(tenant), (), tenant_folder(home, tenant))


def served(port: int, *, by: Path) -> x509.Certificate | None:
    """The certificate on that port; None when the caller and it don't trust each other."""
    context = ssl.create_default_context(cafile=by / "ca.pem")
    context.check_hostname = False  # each service has a name of its own
    context.load_cert_chain(by / "cert.pem", by / "key.pem")
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
            context.wrap_socket(plain) as wrapped,
        ):
            shown = wrapped.getpeercert(binary_form=True)
    except ssl.SSLError:
        return None
    return x509.load_der_x509_certificate(shown) if shown else None


def until_served(mesh: Mesh) -> None:
    """New connections to every port meet the certificate that lies in its folder."""
    for service in ("gateway", "router", "policy", "telemetry", "runtime"):
        folder = service_folder(mesh.home, service)
        expected = x509.load_pem_x509_certificate((folder / "cert.pem").read_bytes())
        operator = service_folder(mesh.home, "operator")
        for port in mesh.ports("mesh" if service == "gateway" else service):
            until(lambda: served(port, by=operator) == expected, within_s=WITHIN_S)  # noqa: B023 - called at once


async def models(mesh: Mesh, folder: Path) -> list[str]:
    async with Client(mesh.address, certificate_folder=folder) as client:
        return [each.name for each in await client.list_models(deadline_s=5)]


def test_certificates_and_the_authority_rotate_under_streams(mesh: Mesh, tmp_path: Path) -> None:
    old = read_authority(authority_folder(mesh.home))
    new = make_authority(tmp_path / "ca")
    leftover = tmp_path / "leftover"  # of the old authority, and nobody replaces it
    issue(replace(old, also=(new,)), tenant_id("acme"), (), leftover)
    steps = (
        replace(old, also=(new,)),  # the new one is trusted before it is used
        replace(new, also=(old,)),
        new,
    )

    async def run() -> list[Stream]:
        load = Load(mesh.address, mesh.tenant("acme"), mesh.model, tokens=TOKENS)
        async with load.running(STREAMS):
            await load.until_streaming(STREAMS, within_s=WITHIN_S)
            load.stop()
            for authority in steps:
                await asyncio.to_thread(issue_all, mesh.home, authority)
                await asyncio.to_thread(until_served, mesh)
                assert await models(mesh, mesh.tenant("acme")) == [mesh.model]
            assert all(each.ended_s is None for each in load.streams)
        return load.streams

    streams = asyncio.run(run())

    assert [each.error for each in streams if each.error is not None] == []
    with pytest.raises(Unreachable):
        asyncio.run(models(mesh, leftover))


def test_an_expired_certificate_is_refused(mesh: Mesh, tmp_path: Path) -> None:
    folder = mesh.tenant("acme")
    issuer = _issuer_of(folder, mesh, tmp_path)
    ended = datetime.now(UTC) - timedelta(minutes=1)
    issue(issuer, tenant_id("acme"), (), tmp_path / "expired", expires_at=ended)

    with pytest.raises(Unreachable):
        asyncio.run(models(mesh, tmp_path / "expired"))


def _issuer_of(folder: Path, mesh: Mesh, tmp_path: Path) -> Authority:
    """One whom the mesh trusts now, so that nothing but its end is wrong with a certificate."""
    fresh = make_authority(tmp_path / "ca")
    issue_all(mesh.home, fresh)
    until_served(mesh)
    assert asyncio.run(models(mesh, folder)) == [mesh.model]
    return fresh
