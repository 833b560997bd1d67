"""HTTP/2 that no library would speak: frames as bytes, to either of Envoy's doors."""

import socket
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from benchmarks.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PREFACE,
    SETTINGS,
    Inbox,
    frame,
    grpc_message,
    header_block,
)
from evenflow.inference.v1 import inference_service_pb2 as pb
from tests.integration.input.raw import GENERATE
from tests.integration.whole.mesh import Mesh

DOORS = ("mesh", "front end")
HELLO = PREFACE + frame(SETTINGS, 0, 0, b"")
WITHIN_S = 20.0


@contextmanager
def connection(mesh: Mesh, door: str, *, hello: bytes = HELLO) -> Iterator[socket.socket]:
    """Past the handshakes; as tenant acme at the mesh's door."""
    ports = mesh.single_ports
    port = ports.mesh if door == "mesh" else ports.frontend
    with socket.create_connection(("127.0.0.1", port), timeout=WITHIN_S) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = _tls(mesh, plain) if door == "mesh" else plain
        with client:
            client.sendall(hello)
            yield client


def _tls(mesh: Mesh, plain: socket.socket) -> ssl.SSLSocket:
    folder = mesh.tenant("acme")
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    context.set_alpn_protocols(["h2"])
    return context.wrap_socket(plain, server_hostname="localhost")


def read_to_the_end(client: socket.socket) -> None:
    """Returns when Envoy has closed it. Raises TimeoutError if it does not."""
    with suppress(ConnectionError, ssl.SSLError):  # closed with bytes of ours unread
        while client.recv(65_536):
            pass


def frames_until(client: socket.socket, kind: int, stream: int) -> list[tuple[int, int, bytes]]:
    """Kind, flags and payload of each frame of a stream, to the first of that kind."""
    inbox = Inbox()
    found: list[tuple[int, int, bytes]] = []
    while not any(each[0] == kind for each in found):
        received = client.recv(65_536)
        assert received, "Envoy closed the connection"
        frames = inbox.frames(received)
        found += [(each, flags, content) for each, flags, at, content in frames if at == stream]
    return found


def cut_off(client: socket.socket, pieces: Iterable[bytes]) -> bool:
    """Sends all that Envoy takes and reads nothing; whether Envoy then closes the connection."""
    with suppress(ConnectionError, ssl.SSLError):
        for piece in pieces:
            client.sendall(piece)
    try:
        read_to_the_end(client)
    except TimeoutError:
        return False
    return True


def headers_of(mesh: Mesh, more: Iterable[tuple[str, str]] = ()) -> bytes:
    """Of a call to Generate that either door lets in."""
    return header_block(
        [
            (":method", "POST"),
            (":scheme", "https"),
            (":path", GENERATE),
            (":authority", "localhost"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("authorization", f"Bearer {mesh.api_key('acme')}"),
            *more,
        ]
    )


def call(mesh: Mesh, stream: int, *, tokens: int = 1, block: bytes | None = None) -> bytes:
    """One whole request: its headers and its message."""
    request = pb.GenerateRequest(model="simulated", text="hi")
    request.sampling.max_output_tokens = tokens
    message = grpc_message(request.SerializeToString())
    block = headers_of(mesh) if block is None else block
    return frame(HEADERS, END_HEADERS, stream, block) + frame(DATA, END_STREAM, stream, message)
