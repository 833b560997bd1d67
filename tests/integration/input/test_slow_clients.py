"""Clients that send nothing, read nothing, stop in the middle or break off: bounded, and alone."""

import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from benchmarks.frames import DATA, END_HEADERS, HEADERS, frame
from tests.integration.input.conftest import IDLE_S
from tests.integration.input.health import SPARE_BYTES, Health
from tests.integration.input.http2 import DOORS, connection, frames_until, headers_of
from tests.integration.input.raw import connected, posted, read, request
from tests.integration.input.test_json import REST
from tests.integration.whole.mesh import Mesh

BODY = b"{" + REST
SILENT = 1000
DEAF = 12
HANDSHAKE_S = 10.0
BODY_S = 60.0
LONG = {
    "model": "simulated",
    "stream": True,
    "max_tokens": 1900,
    "ignore_eos": True,
    "logprobs": True,
    "top_logprobs": 20,
    "messages": [{"role": "user", "content": "hi"}],
}


@pytest.fixture
def clients() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def grew(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {name: size - before[name] for name, size in after.items()}


def test_a_thousand_connections_that_say_nothing_are_closed_and_disturb_nobody(
    mesh: Mesh, health: Health, clients: ExitStack
) -> None:
    before = health.resident_bytes()
    silent = [clients.enter_context(connected(mesh)) for _ in range(SILENT)]
    began_s = time.monotonic()

    assert posted(mesh, BODY).status == 200
    grown = grew(before, health.resident_bytes())
    assert all(client.recv(1) == b"" for client in silent)
    assert IDLE_S - 2 < time.monotonic() - began_s < IDLE_S + 5
    assert max(grown.values()) < SPARE_BYTES, grown


def test_a_handshake_that_does_not_come_is_not_waited_for(mesh: Mesh, clients: ExitStack) -> None:
    port = mesh.single_ports.mesh
    client = clients.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
    client.sendall(b"\x16\x03\x01")
    began_s = time.monotonic()

    with contextlib.suppress(ConnectionError):
        assert client.recv(1) == b""
    assert HANDSHAKE_S - 1 < time.monotonic() - began_s < IDLE_S - 1


def test_headers_that_do_not_end_are_not_waited_for(mesh: Mesh, clients: ExitStack) -> None:
    client = clients.enter_context(connected(mesh))
    client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nh")

    assert read(client).status == 408  # after 10 s


def test_bodies_that_come_a_byte_at_a_time_are_not_waited_for_in_all(
    mesh: Mesh, clients: ExitStack
) -> None:
    """Each byte comes soon, so no idle limit ends them."""
    dribble = b" " * 1_000 + BODY
    front_end = clients.enter_context(connected(mesh))
    front_end.sendall(request(mesh, dribble)[: -len(dribble)])
    over_http2 = [clients.enter_context(connection(mesh, door)) for door in DOORS]
    for client in over_http2:
        client.sendall(frame(HEADERS, END_HEADERS, 1, headers_of(mesh)))
    began_s = time.monotonic()
    tick = threading.Event()
    for byte in dribble[: round(BODY_S) - 2]:
        front_end.sendall(bytes([byte]))
        for client in over_http2:
            client.sendall(frame(DATA, 0, 1, b"\0"))
        tick.wait(1.0)

    answer = read(front_end)
    for client in over_http2:
        frames_until(client, HEADERS, 1)
    assert BODY_S - 1 < time.monotonic() - began_s < BODY_S + 5
    assert (answer.status, answer.error["code"]) == (408, "BODY_TOO_SLOW")


def test_clients_that_never_read_cost_little_and_hold_up_nobody(
    mesh: Mesh, health: Health, clients: ExitStack
) -> None:
    before = health.resident_bytes()
    for _ in range(DEAF):
        deaf = clients.enter_context(connected(mesh, buffer_bytes=4096))
        deaf.sendall(request(mesh, json.dumps(LONG).encode()))

    for _ in range(10):
        began_s = time.monotonic()
        assert posted(mesh, BODY).status == 200
        assert time.monotonic() - began_s < 10

    grown = grew(before, health.resident_bytes())
    # Each answer is 4 MB; what Envoy holds of one is its stream window and two buffers.
    assert grown["envoy"] < DEAF * (1 << 20) + SPARE_BYTES, grown
    assert max(grown[name] for name in ("router", "runtime-1", "runtime-2")) < 2 * SPARE_BYTES, (
        grown
    )


def test_a_client_that_reads_a_byte_at_a_time_gets_its_answer(
    mesh: Mesh, clients: ExitStack
) -> None:
    client = clients.enter_context(connected(mesh, buffer_bytes=2048))
    client.sendall(request(mesh, BODY))
    tick = threading.Event()
    content = b""
    while len(content) < 12:
        content += client.recv(1)
        tick.wait(0.1)

    assert content == b"HTTP/1.1 200"
    assert posted(mesh, BODY).status == 200


@pytest.mark.parametrize("at", [1, 40, 150, 10_000])
@pytest.mark.parametrize("how", ["half-closed", "reset"])
def test_a_connection_that_breaks_off_leaves_nothing(mesh: Mesh, at: int, how: str) -> None:
    for _ in range(20):
        client = connected(mesh)
        client.sendall(request(mesh, json.dumps(LONG).encode())[:at])
        if how == "half-closed":
            client.shutdown(socket.SHUT_WR)
        else:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()

    assert posted(mesh, BODY).status == 200
