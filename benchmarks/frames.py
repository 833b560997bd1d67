"""Just enough HTTP/2 to send gRPC requests and count what comes back, at 2 us a token.

A client library in Python costs more for each token than the proxies that are measured. Requests
use no compression of headers; headers of responses are skipped, since a stream's last message says
whether it went well. See RFC 9113, sections 4 and 6, and RFC 7541, section 6.2.3.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
LARGEST_FRAME = 16_384  # bytes of payload that every peer takes
WINDOW = 1 << 30  # bytes that may come before we allow more
_HEAD = struct.Struct(">HBBBI")
_GRPC = struct.Struct(">BI")
_WORD = struct.Struct(">I")
_SHORT = 127  # the longest string whose length takes HPACK one byte
_INITIAL_WINDOW = 4  # SETTINGS_INITIAL_WINDOW_SIZE


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    size = len(payload)
    return _HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def opening() -> bytes:
    """What a client says first: windows so large that nothing waits for us."""
    settings = struct.pack(">HI", _INITIAL_WINDOW, WINDOW)
    return PREFACE + frame(SETTINGS, 0, 0, settings) + allowance(WINDOW)


def allowance(size: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, 0, _WORD.pack(size))


def header_block(headers: Sequence[tuple[str, str]]) -> bytes:
    """Literal fields without indexing, so that a block can be made once and sent often."""
    return b"".join(b"\0" + _string(key) + _string(value) for key, value in headers)


def _string(text: str) -> bytes:
    encoded = text.encode()
    if len(encoded) < _SHORT:
        return bytes([len(encoded)]) + encoded
    rest = len(encoded) - _SHORT
    head = bytearray([_SHORT])
    while rest >= 0x80:
        head.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([*head, rest]) + encoded


def grpc_message(payload: bytes) -> bytes:
    return _GRPC.pack(0, len(payload)) + payload


def data_frames(stream: int, body: bytes) -> bytes:
    starts = range(0, len(body), LARGEST_FRAME)
    return b"".join(
        frame(
            DATA,
            END_STREAM if start + LARGEST_FRAME >= len(body) else 0,
            stream,
            body[start : start + LARGEST_FRAME],
        )
        for start in starts
    )


@dataclass(slots=True)
class Inbox:
    """Bytes as they came, until they are whole frames."""

    left: bytes = b""

    def frames(self, received: bytes) -> Iterator[tuple[int, int, int, bytes]]:
        """Kind, flags, stream and payload of each."""
        buffer = self.left + received if self.left else received
        at, size = 0, len(buffer)
        while at + 9 <= size:
            high, low, kind, flags, stream = _HEAD.unpack_from(buffer, at)
            end = at + 9 + (high << 8 | low)
            if end > size:
                break
            yield kind, flags, stream, buffer[at + 9 : end]
            at = end
        self.left = buffer[at:]


def whole_messages(buffer: bytes) -> tuple[int, bytes, bytes]:
    """How many gRPC messages are whole, the last of them, and what is left of the next."""
    count, last, at = 0, b"", 0
    while at + 5 <= len(buffer):
        end = at + 5 + _WORD.unpack_from(buffer, at + 1)[0]
        if end > len(buffer):
            break
        count, last, at = count + 1, buffer[at + 5 : end], end
    return count, last, buffer[at:]
