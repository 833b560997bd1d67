"""The unix socket on which Envoy asks: HTTP/1.1, one question and its answer at a time.

An answer may be held; reading goes on, since a caller who leaves is an Envoy that hangs up.

Not gRPC, whose server for Python costs more than the decision itself (docs/adr/0005). Whoever
reaches the socket is Envoy, so the limits here are Envoy's own.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import cast

import httptools
import structlog

from services.chassis.server import CannotListen
from services.chassis.status import way
from services.router.inbound.answers import FAILED, Answer
from services.router.inbound.asked import Question
from services.router.inbound.line import Held

HEALTH = "/health"  # Envoy asks: a loop that hangs does not answer, whatever its process does
_HEALTHY = Answer(200, ())

_log = structlog.get_logger(__name__)


class AskedTwice(RuntimeError):
    """A question came while the one before had no answer; Envoy asks one at a time."""


class CheckSocket:
    """`answer` is called once a question; what it raises is a bug, logged and answered."""

    def __init__(self, answer: Callable[[Question], Answer | Held]) -> None:
        self._answer = answer
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self.is_draining = False

    async def listen(self, path: Path) -> None:
        """Raises CannotListen. A socket that an earlier router has left there is replaced."""
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_unix_server(self._connection, str(path), backlog=4096)
        except OSError as error:
            raise CannotListen(f"can't listen on {path}: {error}") from error

    def drain(self) -> None:
        """Takes no more connections, and ends each with its next answer."""
        self.is_draining = True
        if self._server is not None:
            self._server.close()

    def close(self) -> None:
        """Ends all connections. A question that was just on its way is asked again by Envoy."""
        self.drain()
        for each in list(self._connections):
            each.close()

    def answered(self, question: Question) -> Answer | Held:
        return _HEALTHY if question.path == HEALTH else self._answer(question)

    def _connection(self) -> "_Connection":
        return _Connection(self, self._connections)


class _Connection(asyncio.Protocol):
    """Its `on_` methods are the parser's, which calls them out of `data_received`."""

    def __init__(self, socket: CheckSocket, open_: "set[_Connection]") -> None:
        self._socket = socket
        self._open = open_
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._held: Held | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.discard(self)
        self._transport = None
        if self._held is not None:
            self._held.left()
            self._held = None

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            bug = error.__context__ or error
            _log.error("check.bug", error=type(bug).__name__, trace=way(bug))
            self._write(FAILED, last=True)
        except httptools.HttpParserError as error:
            _log.error("check.not_http", error=type(error).__name__)
            self._write(FAILED, last=True)
        except httptools.HttpParserUpgrade:  # has its answer, and goes on as something else
            _log.error("check.not_http", error="HttpParserUpgrade")
            self.close()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        question = Question(self._url.decode("latin-1"), self._headers, b"".join(self._body))
        self._url, self._headers, self._body = b"", {}, []
        if self._held is not None:
            raise AskedTwice
        answer = self._socket.answered(question)
        if isinstance(answer, Held):
            self._held = answer
            answer.reply = self._answer_held
        else:
            self._write(answer, last=self._socket.is_draining)

    def _answer_held(self, answer: Answer) -> None:
        self._held = None
        self._write(answer, last=self._socket.is_draining or answer is FAILED)

    def _write(self, answer: Answer, *, last: bool) -> None:
        if self._transport is None:
            return
        self._transport.write(answer.encoded(last=last))
        if last:
            self._transport.close()
