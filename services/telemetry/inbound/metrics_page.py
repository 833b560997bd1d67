"""Serves the metrics over HTTPS to the mesh's own services, and to nobody else.

Tenants hold certificates of the same authority, and these numbers are about all tenants; so a
certificate is not enough, it has to be a service's, and not revoked. One request a connection: a
scraper comes every few seconds and asks for one page.
"""

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import structlog

from services.chassis.environ import Address
from services.chassis.identity import InvalidSpiffeId, SpiffeId, TlsFiles
from services.chassis.revocation import Revocations
from services.chassis.server import CannotListen

_REQUEST_WITHIN_S = 5.0  # a peer that says nothing may not hold a connection
_MAX_HEAD_BYTES = 16 << 10

_log = structlog.get_logger(__name__)

Render = Callable[[str], tuple[bytes, str]]
"""From an Accept header to the page and its content type."""


class MetricsPage:
    def __init__(self, render: Render, *, trust_domain: str) -> None:
        self._render = render
        self._trust_domain = trust_domain

    async def listen(self, address: Address, tls: TlsFiles) -> asyncio.Server:
        """Raises CannotListen."""
        revocations = Revocations(tls.revocations)
        try:
            return await asyncio.start_server(
                partial(self._serve, revocations),
                address.host.strip("[]"),
                address.port,
                ssl=_following_context(tls),
                limit=_MAX_HEAD_BYTES,
            )
        except OSError as error:
            raise CannotListen(f"can't listen on {address}: {error}") from error

    async def _serve(
        self,
        revocations: Revocations,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        try:
            async with asyncio.timeout(_REQUEST_WITHIN_S):
                head = await reader.readuntil(b"\r\n\r\n")
                peer = None if _is_revoked(writer, revocations) else _peer(writer)
                writer.write(self._answer(head.decode("latin-1"), peer))
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, OSError):
            return  # no request, or nobody to answer
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    def _answer(self, head: str, peer: SpiffeId | None) -> bytes:
        lines = head.split("\r\n")
        method, _, target = lines[0].partition(" ")
        path = target.partition(" ")[0].partition("?")[0]
        if peer is None or peer.service is None or peer.trust_domain != self._trust_domain:
            _log.warning("metrics.refused", peer=str(peer or ""))
            return _response("403 Forbidden", b"only services of the mesh may read metrics\n")
        if path != "/metrics":
            return _response("404 Not Found", b"metrics are at /metrics\n")
        if method != "GET":
            return _response("405 Method Not Allowed", b"GET it\n")
        page, content_type = self._render(_header(lines, "accept"))
        return _response("200 OK", page, content_type)


def _header(lines: list[str], wanted: str) -> str:
    for line in lines[1:]:
        name, _, value = line.partition(":")
        if name.strip().lower() == wanted:
            return value.strip()
    return ""


def _response(status: str, body: bytes, content_type: str = "text/plain; charset=utf-8") -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode("latin-1") + body


def _is_revoked(writer: asyncio.StreamWriter, revocations: Revocations) -> bool:
    # Not by the handshake: one that takes up a session of before shows nobody's certificate again.
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return revocations.names(ssl.DER_cert_to_PEM_cert(shown).encode())


def _peer(writer: asyncio.StreamWriter) -> SpiffeId | None:
    names: Any = (writer.get_extra_info("peercert") or {}).get("subjectAltName", ())
    for kind, name in names:
        if kind == "URI":
            try:
                return SpiffeId.parse(name)
            except InvalidSpiffeId:
                return None
    return None


def _following_context(tls: TlsFiles) -> ssl.SSLContext:
    """A server context whose certificate and authorities are those on disk at each handshake."""
    latest = (tls.stamp(), _context(tls))

    def follow(connection: ssl.SSLObject, _name: str | None, _context_now: ssl.SSLContext) -> None:
        nonlocal latest
        with suppress(OSError, ssl.SSLError):  # half a rotation; the next handshake looks again
            stamp = tls.stamp()
            if stamp != latest[0]:
                latest = (stamp, _context(tls))
        connection.context = latest[1]

    context = _context(tls)
    context.sni_callback = follow
    return context


def _context(tls: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(tls.certificate, tls.key)
    context.load_verify_locations(tls.authorities)
    context.verify_mode = ssl.CERT_REQUIRED
    return context
