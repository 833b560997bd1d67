"""The metrics are for the mesh's own services, whose certificates may rotate meanwhile."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services.chassis.environ import address
from services.chassis.identity import TlsFiles
from services.chassis.server import CannotListen
from services.telemetry.inbound.metrics_page import MetricsPage
from tests.identities import TRUST_DOMAIN, Identities


@asynccontextmanager
async def serving(tls: TlsFiles) -> AsyncIterator[int]:
    page = MetricsPage(lambda accept: (b"some 1\n", f"for/{accept}"), trust_domain=TRUST_DOMAIN)
    server = await page.listen(address("127.0.0.1:0"), tls)
    async with server:
        yield server.sockets[0].getsockname()[1]


def client(ours: TlsFiles, certificate: TlsFiles | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(ours.authorities))
    if certificate is not None:
        context.load_cert_chain(certificate.certificate, certificate.key)
    return context


async def ask(
    port: int, context: ssl.SSLContext | None, head: str = "GET /metrics HTTP/1.1\r\nAccept: me"
) -> str:
    name = f"telemetry.{TRUST_DOMAIN}" if context else None
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, server_hostname=name
        )
        writer.write(f"{head}\r\n\r\n".encode())
        try:
            return (await reader.read()).decode()
        finally:
            writer.close()


def asked(folder: Path, head: str) -> str:
    identities = Identities(folder)
    tls = identities.service("telemetry")
    context = client(tls, identities.service("operator"))

    async def scenario() -> str:
        async with serving(tls) as port:
            return await ask(port, context, head)

    return asyncio.run(scenario())


def test_a_service_of_the_mesh_reads_the_page(tmp_path: Path) -> None:
    answer = asked(tmp_path, "GET /metrics?x=1 HTTP/1.1\r\nhost: a\r\nACCEPT: me")

    assert answer.startswith("HTTP/1.1 200 OK\r\ncontent-type: for/me\r\n")
    assert answer.endswith("\r\n\r\nsome 1\n")


@pytest.mark.parametrize(
    ("head", "status"),
    [("GET /else HTTP/1.1", "404"), ("POST /metrics HTTP/1.1", "405"), ("nonsense", "404")],
)
def test_there_is_one_page_and_only_to_be_read(tmp_path: Path, head: str, status: str) -> None:
    assert asked(tmp_path, head).startswith(f"HTTP/1.1 {status}")


def test_an_endless_head_is_not_listened_to(tmp_path: Path) -> None:
    assert asked(tmp_path, "GET /metrics HTTP/1.1\r\nx: " + "y" * 20_000) == ""


def test_a_tenants_certificate_is_not_enough(tmp_path: Path) -> None:
    identities = Identities(tmp_path)
    tls = identities.service("telemetry")

    async def scenario() -> str:
        async with serving(tls) as port:
            return await ask(port, client(tls, identities.tenant("acme")))

    assert asyncio.run(scenario()).startswith("HTTP/1.1 403")


def test_a_revoked_certificate_is_refused(tmp_path: Path) -> None:
    identities = Identities(tmp_path)
    tls = identities.service("telemetry")
    bad, good = identities.service("operator"), identities.service("router")
    identities.revoke(bad, told=tls)

    async def scenario() -> list[str]:
        async with serving(tls) as port:
            return [await ask(port, client(tls, each)) for each in (bad, good)]

    assert [answer[9:12] for answer in asyncio.run(scenario())] == ["403", "200"]


@pytest.mark.parametrize("stranger", ["nobody", "another authority", "plain text"])
def test_strangers_get_no_answer_at_all(tmp_path: Path, stranger: str) -> None:
    tls = Identities(tmp_path / "ours").service("telemetry")
    other = Identities(tmp_path / "others").service("operator")
    contexts = {"nobody": client(tls, None), "another authority": client(tls, other)}

    async def scenario() -> str:
        async with serving(tls) as port:
            try:
                return await ask(port, contexts.get(stranger))
            except (ssl.SSLError, ConnectionError):
                return ""

    assert asyncio.run(scenario()) == ""


def test_new_connections_get_a_rotated_certificate_and_its_authority(tmp_path: Path) -> None:
    old, new = Identities(tmp_path / "old"), Identities(tmp_path / "new")
    tls, rotated = old.service("telemetry"), new.service("telemetry")

    async def scenario() -> tuple[str, str]:
        async with serving(tls) as port:
            before = await ask(port, client(tls, old.service("operator")))
            for file in ("certificate", "key", "authorities"):
                getattr(tls, file).write_bytes(getattr(rotated, file).read_bytes())
            return before, await ask(port, client(rotated, new.service("operator")))

    assert [answer[9:12] for answer in asyncio.run(scenario())] == ["200", "200"]


def test_a_port_that_is_taken_is_said_so(tmp_path: Path) -> None:
    tls = Identities(tmp_path).service("telemetry")

    async def scenario() -> None:
        async with serving(tls) as port:
            page = MetricsPage(lambda accept: (b"", accept), trust_domain=TRUST_DOMAIN)
            await page.listen(address(f"127.0.0.1:{port}"), tls)

    with pytest.raises(CannotListen, match="can't listen on 127"):
        asyncio.run(scenario())
