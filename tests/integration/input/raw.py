"""Clients that no library would be: bytes to a socket, and what comes back."""

import json
import re
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tests.integration.whole.mesh import Mesh

_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)")
GENERATE = "/evenflow.inference.v1.InferenceService/Generate"
CHAT = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> Any:
        """OpenAI's error object; its JSON must be UTF-8."""
        error = json.loads(self.body.decode())["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return error


def connected(mesh: Mesh, *, buffer_bytes: int | None = None) -> socket.socket:
    port = mesh.single_ports.frontend
    client = socket.socket()
    if buffer_bytes is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    client.settimeout(20)
    client.connect(("127.0.0.1", port))
    return client


def sent(mesh: Mesh, request: bytes) -> Answer:
    with connected(mesh) as client:
        with suppress(ConnectionError):  # refused before the last byte
            client.sendall(request)
        return read(client)


def read(client: socket.socket) -> Answer:
    content = b""
    while not _is_whole(content):
        piece = client.recv(65536)
        if not piece:
            break
        content += piece
    head, _, body = content.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    return Answer(int(first.split()[1]), dict(line.split(": ", 1) for line in lines), body)


def posted(
    mesh: Mesh, body: bytes, *, path: str = CHAT, method: str = "POST", headers: bytes = b""
) -> Answer:
    return sent(mesh, request(mesh, body, path=path, method=method, headers=headers))


def request(
    mesh: Mesh, body: bytes, *, path: str = CHAT, method: str = "POST", headers: bytes = b""
) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: mesh", f"content-length: {len(body)}"]
    if b"authorization:" not in headers.lower():
        lines.append(f"authorization: Bearer {mesh.api_key('acme')}")
    return "\r\n".join([*lines, ""]).encode("latin-1") + headers + b"\r\n" + body


def framed(mesh: Mesh, frame: bytes, *, headers: bytes = b"", path: str = GENERATE) -> Answer:
    """Over gRPC-Web; a refusal's status and reason are in the headers."""
    kind = b"content-type: application/grpc-web+proto\r\n"
    return posted(mesh, frame, path=path, headers=kind + headers)


def frame(message: bytes, *, flag: int = 0, length: int | None = None) -> bytes:
    return struct.pack(">BI", flag, len(message) if length is None else length) + message


def _is_whole(content: bytes) -> bool:
    head, end, body = content.partition(b"\r\n\r\n")
    if not end:
        return False
    length = _LENGTH.search(head)
    return len(body) >= int(length[1]) if length else body.endswith(b"0\r\n\r\n")
