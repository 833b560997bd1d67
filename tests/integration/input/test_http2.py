"""HTTP/2 that breaks its own rules, at both of Envoy's doors: that connection ends, no other."""

import struct

import pytest

from benchmarks.frames import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    header_block,
)
from tests.integration.input.http2 import (
    DOORS,
    call,
    connection,
    frames_until,
    read_to_the_end,
)
from tests.integration.input.raw import posted
from tests.integration.input.test_slow_clients import BODY
from tests.integration.whole.mesh import Mesh

PRIORITY, PUSH_PROMISE, CONTINUATION, UNKNOWN = 2, 5, 9, 0xFA
PADDED = 8
WHOLE = END_HEADERS | END_STREAM
WORD = struct.Struct(">I")
LARGEST_WINDOW = (1 << 31) - 1
OPEN = header_block([(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "x")])


def settings(key: int, value: int) -> bytes:
    return frame(SETTINGS, 0, 0, struct.pack(">HI", key, value))


PREFACES = {
    "none, but frames": frame(SETTINGS, 0, 0, b""),
    "of nothing": b"\0" * 64,
    "cut and other": PREFACE[:16] + b"XX\r\n\r\n",
    "without settings": PREFACE + frame(PING, 0, 0, b"\0" * 8),
    "with TLS after it": PREFACE + b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
}
CONNECTION_ERRORS = {
    "noise": bytes(n * 7919 % 251 for n in range(4096)),
    "a frame of 16 MiB": b"\xff\xff\xff\0\0\0\0\0\1",
    "a frame one byte too large": frame(HEADERS, END_HEADERS, 1, b"\0" * 16_385),
    "data on no stream": frame(DATA, 0, 0, b"x"),
    "data on a stream never opened": frame(DATA, 0, 1, b"x"),
    "headers on no stream": frame(HEADERS, END_HEADERS, 0, OPEN),
    "a stream of the server's": frame(HEADERS, END_HEADERS, 2, OPEN),
    "more padding than frame": frame(HEADERS, END_HEADERS | PADDED, 1, b"\xff" + OPEN),
    "an index that HPACK does not have": frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\x7f"),
    "an HPACK integer without end": frame(HEADERS, END_HEADERS, 1, b"\xff" * 64),
    "a table larger than was agreed": frame(HEADERS, END_HEADERS, 1, b"\x3f\xff\xff\x7f" + OPEN),
    "Huffman code that is none": frame(HEADERS, END_HEADERS, 1, b"\0\x84\xff\xff\xff\xff\1x"),
    "a continuation of nothing": frame(CONTINUATION, END_HEADERS, 1, OPEN),
    "another frame amid headers": frame(HEADERS, 0, 1, OPEN) + frame(PING, 0, 0, b"\0" * 8),
    "a promise": frame(PUSH_PROMISE, END_HEADERS, 1, WORD.pack(2) + OPEN),
    "settings of five bytes": frame(SETTINGS, 0, 0, b"\0" * 5),
    "settings of a stream": frame(SETTINGS, 0, 1, b""),
    "an acknowledgement with words": frame(SETTINGS, ACK, 0, b"\0" * 6),
    "a window that is too large": settings(4, LARGEST_WINDOW + 1),
    "frames that are too small": settings(5, 1),
    "push that is neither on nor off": settings(2, 2),
    "a ping of seven bytes": frame(PING, 0, 0, b"\0" * 7),
    "a reset of no stream": frame(RST_STREAM, 0, 0, WORD.pack(8)),
    "a reset of a stream never opened": frame(RST_STREAM, 0, 1, WORD.pack(8)),
    "a window that overflows": frame(WINDOW_UPDATE, 0, 0, WORD.pack(LARGEST_WINDOW)),
    "a window that grows by nothing": frame(WINDOW_UPDATE, 0, 0, WORD.pack(0)),
    "a window of three bytes": frame(WINDOW_UPDATE, 0, 0, b"\0\0\1"),
    "a stream's window that overflows": frame(HEADERS, END_HEADERS, 1, OPEN)
    + frame(WINDOW_UPDATE, 0, 1, WORD.pack(LARGEST_WINDOW)),
    "data after a stream's end": frame(HEADERS, WHOLE, 1, OPEN) + frame(DATA, 0, 1, b"x"),
    "a header in capitals": frame(HEADERS, WHOLE, 1, OPEN + header_block([("X", "1")])),
    "a header of HTTP/1": frame(HEADERS, WHOLE, 1, OPEN + header_block([("connection", "close")])),
    "a line's end in a header": frame(HEADERS, WHOLE, 1, OPEN + header_block([("x", "1\r\ny: 2")])),
    "NUL in a header": frame(HEADERS, WHOLE, 1, OPEN + header_block([("x", "\0")])),
    "two paths": frame(HEADERS, WHOLE, 1, OPEN + header_block([(":path", "/")])),
    "a path after the headers": frame(HEADERS, WHOLE, 1, header_block([("x", "1")]) + OPEN),
    "no path": frame(HEADERS, WHOLE, 1, header_block([(":method", "POST"), (":scheme", "http")])),
}
TOO_MUCH = header_block([("x", "y" * 16_000)])
SURVIVED = {
    "a frame of no kind": frame(UNKNOWN, 0xFF, 0, b"x" * 100),
    "a flag of no meaning": frame(PING, 0xFE, 0, b"\0" * 8),
    "settings that nobody knows": settings(0xFFFF, 7),
    "a priority below a stream that is not there": frame(PRIORITY, 0, 3, WORD.pack(99) + b"\0"),
    "a priority below itself": frame(PRIORITY, 0, 1, WORD.pack(1) + b"\0"),
    "a stream opened backwards": frame(HEADERS, WHOLE, 5, OPEN) + frame(HEADERS, WHOLE, 3, OPEN),
    "headers of one stream that are too much": frame(HEADERS, END_STREAM, 1, OPEN)
    + frame(CONTINUATION, 0, 1, TOO_MUCH) * 2
    + frame(CONTINUATION, END_HEADERS, 1, TOO_MUCH),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", PREFACES)
def test_a_connection_that_opens_wrongly_is_closed(mesh: Mesh, door: str, name: str) -> None:
    with connection(mesh, door, hello=PREFACES[name]) as client:
        client.sendall(b"\r\n\r\n")  # HTTP/1.1 reads on until a head ends
        read_to_the_end(client)

    assert posted(mesh, BODY).status == 200


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", CONNECTION_ERRORS)
def test_an_error_of_the_connection_ends_it(mesh: Mesh, door: str, name: str) -> None:
    with connection(mesh, door) as client:
        client.sendall(CONNECTION_ERRORS[name])
        read_to_the_end(client)

    assert posted(mesh, BODY).status == 200


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", SURVIVED)
def test_what_is_only_odd_leaves_the_connection_as_it_was(mesh: Mesh, door: str, name: str) -> None:
    with connection(mesh, door) as client:
        client.sendall(SURVIVED[name] + call(mesh, 7))
        frames = frames_until(client, DATA, 7)

    assert frames[0][0] == HEADERS
