"""One HTTP/2 connection of the load generator: requests out, first and last messages noticed."""

import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import hpack

from benchmarks import frames

READ_BYTES = 1 << 18
_BLOCKED = (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError)


@dataclass(slots=True)
class Call:
    due_s: float  # when it was to be sent; what is late counts from here
    first_s: float = 0.0  # when its first message came; 0: none has
    messages: int = 0
    last: bytes = b""
    left: bytes = b""
    fields: dict[str, str] = field(default_factory=dict)  # of its headers, where somebody asked


@dataclass(slots=True)
class Connection:
    """`ended` is told of each call whose stream is over, however it ended. `headers` reads those of
    responses; without it nobody does, since that costs more than all else."""

    link: ssl.SSLSocket
    ended: Callable[["Connection", Call], None]
    headers: hpack.Decoder | None = None
    calls: dict[int, Call] = field(default_factory=dict)
    _next: int = 1
    _inbox: frames.Inbox = field(default_factory=frames.Inbox)
    _unsent: bytearray = field(default_factory=bytearray)
    _waiting: list[tuple[int, bytes]] = field(default_factory=list)  # bodies without window
    _window: int = 65_535
    _taken: int = 0

    @classmethod
    def open(
        cls,
        address: str,
        context: ssl.SSLContext,
        server: str,
        ended: Callable[["Connection", Call], None],
    ) -> "Connection":
        host, _, port = address.rpartition(":")
        plain = socket.create_connection((host, int(port)), timeout=10)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = context.wrap_socket(plain, server_hostname=server)
        assert link.selected_alpn_protocol() == "h2", "the server must speak HTTP/2"
        link.setblocking(False)
        connection = cls(link, ended)
        connection._send(frames.opening())
        return connection

    @property
    def wants_to_write(self) -> bool:
        return bool(self._unsent)

    def start(self, headers: bytes, body: bytes, due_s: float) -> Call:
        stream, self._next = self._next, self._next + 2
        call = self.calls[stream] = Call(due_s)
        head = frames.frame(frames.HEADERS, frames.END_HEADERS, stream, headers)
        if len(body) <= self._window and not self._waiting:
            self._window -= len(body)
            self._send(head + frames.data_frames(stream, body))
        else:
            self._send(head)
            self._waiting.append((stream, body))
        return call

    def read(self) -> None:
        """Everything that has come. Raises ConnectionError when the peer is gone."""
        while True:
            try:
                received = self.link.recv(READ_BYTES)
            except _BLOCKED:
                return
            if not received:
                raise ConnectionError("the server has closed the connection")
            now_s = time.perf_counter()
            for kind, flags, stream, payload in self._inbox.frames(received):
                if kind == frames.DATA and stream in self.calls:
                    self._take(self.calls[stream], payload, now_s)
                elif kind != frames.DATA:
                    self._noticed(kind, flags, stream, payload)
                if kind == frames.RST_STREAM or (
                    kind in {frames.DATA, frames.HEADERS} and flags & frames.END_STREAM
                ):
                    self._over(stream)
            self._allow(len(received))

    def flush(self) -> None:
        try:
            while self._unsent:
                sent = self.link.send(self._unsent)
                del self._unsent[:sent]
        except _BLOCKED:
            pass

    def _take(self, call: Call, payload: bytes, now_s: float) -> None:
        count, last, call.left = frames.whole_messages(call.left + payload)
        if count:
            call.first_s = call.first_s or now_s
            call.messages += count
            call.last = last

    def _over(self, stream: int) -> None:
        call = self.calls.pop(stream, None)
        if call is not None:
            self.ended(self, call)

    def _noticed(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == frames.HEADERS and self.headers is not None:
            fields = {str(key): str(value) for key, value in self.headers.decode(payload)}
            if stream in self.calls:
                self.calls[stream].fields |= fields
        if kind == frames.SETTINGS and not flags & frames.ACK:
            self._send(frames.frame(frames.SETTINGS, frames.ACK, 0, b""))
        elif kind == frames.PING and not flags & frames.ACK:
            self._send(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif kind == frames.WINDOW_UPDATE and stream == 0:
            self._allowed(int.from_bytes(payload))
        elif kind == frames.GOAWAY:
            raise ConnectionError(f"the server says goodbye: {payload[8:80]!r}")

    def _allowed(self, size: int) -> None:
        """The peer takes so many more bytes on this connection."""
        self._window += size
        while self._waiting and len(self._waiting[0][1]) <= self._window:
            stream, body = self._waiting.pop(0)
            self._window -= len(body)
            self._send(frames.data_frames(stream, body))

    def _allow(self, received: int) -> None:
        self._taken += received
        if self._taken > frames.WINDOW // 4:
            self._send(frames.allowance(self._taken))
            self._taken = 0

    def _send(self, payload: bytes) -> None:
        self._unsent += payload
        self.flush()
