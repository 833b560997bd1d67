"""One client floods Envoy over HTTP/2: it is cut off or bounded, and the others are served on."""

import itertools
import threading
from collections.abc import Callable, Iterator

import pytest

from benchmarks.frames import (
    DATA,
    END_HEADERS,
    HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    header_block,
)
from tests.integration.input.health import SPARE_BYTES, Health
from tests.integration.input.http2 import (
    DOORS,
    HELLO,
    call,
    connection,
    cut_off,
    frames_until,
    headers_of,
)
from tests.integration.input.raw import posted
from tests.integration.input.test_http2 import (
    CONTINUATION,
    OPEN,
    PADDED,
    PRIORITY,
    TOO_MUCH,
    UNKNOWN,
    WHOLE,
    WORD,
    settings,
)
from tests.integration.input.test_slow_clients import BODY, grew
from tests.integration.whole.mesh import Mesh

PIECES = 5000  # of 1.3 kB to 16 kB: far more than any limit takes
RESETS = 250  # after so many quick ones Envoy closes; half of premature_reset_total_stream_count
IN_THE_SAME_BREATH = 50
ONE_BYTE = WORD.pack(1)
CANCEL = WORD.pack(8)
INDEX_62 = b"\xbe"  # the newest entry of HPACK's table


def opened(then: bytes) -> Iterator[bytes]:
    """A request that is begun, and the same over and over."""
    return itertools.chain([frame(HEADERS, 0, 1, OPEN)], itertools.repeat(then, PIECES))


def begun(then: bytes) -> Iterator[bytes]:
    return itertools.chain([frame(HEADERS, END_HEADERS, 1, OPEN)], itertools.repeat(then, PIECES))


def bomb() -> Iterator[bytes]:
    """One header of 4 kB, and then 16,000 times its index in each request: 64 MB each."""
    large = b"\x40" + header_block([("x", "y" * 3_900)])[1:]
    yield frame(HEADERS, WHOLE, 1, OPEN + large)
    for stream in range(3, 2 * PIECES, 2):
        yield frame(HEADERS, WHOLE, stream, OPEN + INDEX_62 * 16_000)


FLOODS: dict[str, Callable[[], Iterator[bytes]]] = {
    "pings": lambda: itertools.repeat(frame(PING, 0, 0, b"\0" * 8) * 100, PIECES),
    "settings": lambda: itertools.repeat(frame(SETTINGS, 0, 0, b"") * 150, PIECES),
    "tables that grow and shrink": lambda: itertools.repeat(
        (settings(1, 0) + settings(1, 4096)) * 50, PIECES
    ),
    "windows": lambda: itertools.repeat(frame(WINDOW_UPDATE, 0, 0, ONE_BYTE) * 100, PIECES),
    "priorities": lambda: begun(frame(PRIORITY, 0, 1, WORD.pack(3) + b"\0") * 100),
    "empty data": lambda: begun(frame(DATA, 0, 1, b"") * 150),
    "padding": lambda: begun(frame(DATA, PADDED, 1, b"\xff" + b"\0" * 255) * 5),
    "headers without end": lambda: opened(frame(CONTINUATION, 0, 1, TOO_MUCH)),
    "empty headers without end": lambda: opened(frame(CONTINUATION, 0, 1, b"") * 150),
    "an HPACK bomb": bomb,
}


class Flood(threading.Thread):
    """`cut_off` when it has ended: Envoy closed the connection."""

    def __init__(self, mesh: Mesh, door: str, pieces: Iterator[bytes]) -> None:
        super().__init__()
        self._mesh, self._door, self._pieces = mesh, door, pieces
        self.cut_off = False

    def run(self) -> None:
        with connection(self._mesh, self._door) as client:
            self.cut_off = cut_off(client, self._pieces)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_is_cut_off_and_holds_up_nobody(
    mesh: Mesh, health: Health, door: str, name: str
) -> None:
    before = health.resident_bytes()
    flood = Flood(mesh, door, FLOODS[name]())
    flood.start()
    statuses = [posted(mesh, BODY).status for _ in range(10)]
    flood.join()

    assert flood.cut_off
    assert statuses == [200] * 10
    grown = grew(before, health.resident_bytes())
    assert max(grown.values()) < SPARE_BYTES, grown


@pytest.mark.parametrize("door", DOORS)
def test_frames_of_no_kind_cost_nothing(mesh: Mesh, health: Health, door: str) -> None:
    before = health.resident_bytes()
    with connection(mesh, door) as client:
        for _ in range(PIECES):
            client.sendall(frame(UNKNOWN, 0, 0, b"x" * 16_000))
        client.sendall(call(mesh, 1))
        frames_until(client, DATA, 1)

    grown = grew(before, health.resident_bytes())
    assert max(grown.values()) < SPARE_BYTES, grown


def opened_and_reset(mesh: Mesh, *, at_once: int) -> Iterator[bytes]:
    """As in CVE-2023-44487."""
    block = headers_of(mesh)
    for first in range(1, 2 * PIECES, 2 * at_once):
        streams = range(first, first + 2 * at_once, 2)
        yield b"".join(
            call(mesh, each, block=block) + frame(RST_STREAM, 0, each, CANCEL) for each in streams
        )


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("at_once", [1, IN_THE_SAME_BREATH])
def test_streams_that_are_opened_and_reset_end_the_connection(
    mesh: Mesh, door: str, at_once: int
) -> None:
    before = mesh.envoy_counters()
    flood = Flood(mesh, door, opened_and_reset(mesh, at_once=at_once))
    flood.start()
    statuses = [posted(mesh, BODY).status for _ in range(10)]
    flood.join()

    assert flood.cut_off
    assert statuses == [200] * 10
    asked = mesh.envoy_counters_once(
        lambda now: now["logs_written"] >= before["logs_written"] + RESETS, since=before
    )
    assert asked["logs_written"] <= RESETS + IN_THE_SAME_BREATH + len(statuses)


@pytest.mark.parametrize("door", DOORS)
def test_answers_that_are_reset_as_they_begin_leave_nothing(mesh: Mesh, door: str) -> None:
    """Each has an engine's slot by then; to Envoy it is no more than a caller who leaves."""
    block = headers_of(mesh)
    with connection(mesh, door) as client:
        for stream in range(1, 4 * RESETS, 2):
            client.sendall(call(mesh, stream, tokens=1900, block=block))
            frames_until(client, HEADERS, stream)
            client.sendall(frame(RST_STREAM, 0, stream, CANCEL))

    assert posted(mesh, BODY).status == 200


@pytest.mark.parametrize("door", DOORS)
def test_more_streams_than_are_allowed_are_refused_one_by_one(mesh: Mesh, door: str) -> None:
    block = headers_of(mesh)
    with connection(mesh, door) as client:
        for stream in range(1, 2 * 4096, 2):
            client.sendall(frame(HEADERS, END_HEADERS, stream, block))
        client.sendall(frame(HEADERS, END_HEADERS, 8193, block))
        refused = frames_until(client, RST_STREAM, 8193)
        assert posted(mesh, BODY).status == 200

    assert refused == [(RST_STREAM, 0, WORD.pack(7))]


@pytest.mark.parametrize("door", DOORS)
def test_a_reader_without_a_window_is_ended_at_its_deadline(
    mesh: Mesh, health: Health, door: str
) -> None:
    """32 answers of some megabytes, and a window that opens a byte at a time."""
    before = health.resident_bytes()
    block = headers_of(mesh, [("grpc-timeout", "3S")])
    streams = range(1, 64, 2)
    with connection(mesh, door, hello=HELLO + settings(4, 0)) as client:
        for stream in streams:
            client.sendall(call(mesh, stream, tokens=1900, block=block))
        tick = threading.Event()
        for _ in range(40):
            client.sendall(b"".join(frame(WINDOW_UPDATE, 0, each, ONE_BYTE) for each in streams))
            assert posted(mesh, BODY).status == 200
            tick.wait(0.1)
        grown = grew(before, health.resident_bytes())
        health.check()  # the deadline has freed what they held, though the connection is open

    assert max(grown.values()) < SPARE_BYTES, grown
