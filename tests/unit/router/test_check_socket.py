"""The socket on which Envoy asks, spoken to byte by byte over a real one."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from services.chassis.server import CannotListen
from services.router.inbound.answers import Answer
from services.router.inbound.asked import Question
from services.router.inbound.check_socket import CheckSocket
from services.router.inbound.line import Held

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Told:
    status: int
    headers: dict[str, str]


class Caller:
    """One connection. Reads answers as Envoy does, by their own framing."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self._writer.write(piece)
            await self._writer.drain()

    async def told(self) -> Told:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        if headers.get("transfer-encoding") == "chunked":
            assert await self._reader.readexactly(5) == b"0\r\n\r\n"
        else:
            assert headers["content-length"] == "0"
        return Told(int(first.split(" ")[1]), headers)

    async def ask(self, name: str, body: bytes = b"") -> Told:
        await self.send(question(name, body))
        return await self.told()

    async def ended(self) -> bool:
        return await self._reader.read() == b""

    def leave(self) -> None:
        self._writer.close()


def question(name: str, body: bytes = b"") -> bytes:
    head = f"POST /{name} HTTP/1.1\r\nhost: x\r\nX-Name: {name}\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


HELD: dict[str, Held] = {}
LEFT: set[str] = set()


def held(name: str) -> Held:
    HELD[name] = Held(lambda: LEFT.add(name))
    return HELD[name]


async def until_held(name: str) -> Held:
    while name not in HELD:  # noqa: ASYNC110 - a parser's callback writes it down
        await asyncio.sleep(0)
    return HELD.pop(name)


def echo(asked: Question) -> Answer | Held:
    """Says what it was asked; "refuse" is refused, "break" is a bug, "hold..." is held."""
    name = asked.headers.get("x-name")
    if name is not None and name.startswith("hold"):
        return held(name)
    if name == "break":
        raise ValueError(asked.body.decode())
    status = 403 if name == "refuse" else 200
    return Answer(status, (("x-path", asked.path), ("x-length", str(len(asked.body)))))


class Served:
    def __init__(self, listening: CheckSocket, path: Path) -> None:
        self.socket = listening
        self.path = path

    @asynccontextmanager
    async def caller(self) -> AsyncIterator[Caller]:
        reader, writer = await asyncio.open_unix_connection(self.path)
        try:
            yield Caller(reader, writer)
        finally:
            writer.close()


def run(folder: Path, scenario: Callable[[Served], Awaitable[None]]) -> None:
    async def within() -> None:
        served = Served(CheckSocket(echo), folder / "check.sock")
        await served.socket.listen(served.path)
        try:
            async with asyncio.timeout(10.0):
                await scenario(served)
        finally:
            served.socket.close()

    asyncio.run(within())


def test_a_connection_asks_many_times(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        async with served.caller() as envoy:
            for number in range(20):
                name = "refuse" if number % 3 else f"q{number}"
                told = await envoy.ask(name, bytes(number))
                assert told.status == (403 if number % 3 else 200)
                assert told.headers["x-path"] == f"/{name}"
                assert told.headers["x-length"] == str(number)
                assert "connection" not in told.headers

    run(tmp_path, scenario)


def test_questions_sent_at_once_are_answered_in_their_order(tmp_path: Path) -> None:
    names = ["a", "refuse", "b", "refuse", "c"]

    async def scenario(served: Served) -> None:
        async with served.caller() as envoy:
            await envoy.send(b"".join(question(name, b"body") for name in names))
            told = [await envoy.told() for _ in names]
            assert [each.headers["x-path"] for each in told] == [f"/{name}" for name in names]

    run(tmp_path, scenario)


def test_a_question_in_many_pieces_is_one(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        async with served.caller() as envoy:
            whole = question("pieces", b"x" * 300)
            for byte in whole:
                await envoy.send(bytes([byte]))
                await asyncio.sleep(0)
            assert (await envoy.told()).headers == {
                "x-path": "/pieces",
                "x-length": "300",
                "content-length": "0",
            }

    run(tmp_path, scenario)


def test_a_body_of_envoys_limit_is_read_whole(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        async with served.caller() as envoy:
            for _ in range(2):
                assert (await envoy.ask("big", bytes(4 * MIB))).headers["x-length"] == str(4 * MIB)

    run(tmp_path, scenario)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"MADEUP /x HTTP/1.1\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\n\r\n",
        b"POST /x HTTP/1.1\r\nx: a\x00b\r\n\r\n",
    ],
    ids=["TLS", "HTTP/2", "method", "tunnel", "header"],
)
def test_what_is_no_question_ends_its_connection_and_no_other(
    tmp_path: Path, garbage: bytes
) -> None:
    async def scenario(served: Served) -> None:
        async with served.caller() as other, served.caller() as stranger:
            assert (await other.ask("before")).status == 200
            await stranger.send(garbage)
            told = await stranger.told()
            assert told.status == (200 if garbage.startswith(b"CONNECT") else 500)
            assert await stranger.ended()
            assert (await other.ask("after")).status == 200

    with capture_logs() as logs:
        run(tmp_path, scenario)

    assert [each["event"] for each in logs] == ["check.not_http"]


def test_a_bug_is_logged_by_its_way_and_not_by_its_words(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        async with served.caller() as envoy:
            told = await envoy.ask("break", b"a secret")
            assert (told.status, told.headers["connection"]) == (500, "close")
            assert await envoy.ended()
        async with served.caller() as envoy:
            assert (await envoy.ask("next")).status == 200

    with capture_logs() as logs:
        run(tmp_path, scenario)

    (line,) = logs
    assert (line["event"], line["error"]) == ("check.bug", "ValueError")
    assert "echo" in str(line["trace"])
    assert "secret" not in str(line)


def test_health_is_answered_without_asking_anybody(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        async with served.caller() as envoy:
            await envoy.send(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            assert await envoy.told() == Told(200, {"content-length": "0"})

    run(tmp_path, scenario)


def test_draining_answers_what_is_open_and_takes_nobody_new(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        async with served.caller() as envoy:
            assert "connection" not in (await envoy.ask("before")).headers
            served.socket.drain()
            with pytest.raises(OSError, match=r"refused|No such file"):
                async with served.caller():
                    pass
            last = await envoy.ask("last")
            assert (last.status, last.headers["connection"]) == (200, "close")
            assert await envoy.ended()

    run(tmp_path, scenario)


def test_closing_ends_every_connection(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        async with served.caller() as one, served.caller() as two:
            assert (await one.ask("one")).status == (await two.ask("two")).status == 200
            served.socket.close()
            assert await one.ended()
            assert await two.ended()

    run(tmp_path, scenario)


def test_who_leaves_half_way_takes_nothing_along(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        async with served.caller() as envoy:
            async with served.caller() as leaver:
                await leaver.send(question("left", b"x" * 100)[:-50])
            async with served.caller() as impatient:
                await impatient.send(question("unread"))
            assert (await envoy.ask("stays")).status == 200

    with capture_logs() as logs:
        run(tmp_path, scenario)

    assert logs == []


def test_an_earlier_routers_socket_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as earlier:
        earlier.bind(str(tmp_path / "check.sock"))

    async def scenario(served: Served) -> None:
        async with served.caller() as envoy:
            assert (await envoy.ask("here")).status == 200

    run(tmp_path, scenario)


def test_a_socket_that_cannot_be_made_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(CannotListen, match=r"can't listen on .*/nowhere/check\.sock"):
        asyncio.run(CheckSocket(echo).listen(tmp_path / "nowhere" / "check.sock"))


LATER = Answer(200, (("x-late", "yes"),))


def test_a_held_answer_comes_when_it_is_given_and_the_connection_asks_on(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        async with served.caller() as envoy, served.caller() as other:
            await envoy.send(question("hold"))
            one = await until_held("hold")
            assert (await other.ask("meanwhile")).status == 200

            one.reply(LATER)
            assert (await envoy.told()).headers["x-late"] == "yes"
            assert (await envoy.ask("next")).status == 200

    run(tmp_path, scenario)


def test_who_hangs_up_while_held_has_left_at_once(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        async with served.caller() as envoy:
            await envoy.send(question("hold-leaver"))
            gone = await until_held("hold-leaver")
        while "hold-leaver" not in LEFT:  # noqa: ASYNC110 - a callback writes it down
            await asyncio.sleep(0)
        gone.reply(LATER)  # to nobody

    run(tmp_path, scenario)


def test_closing_takes_those_who_are_held_for_gone_and_they_ask_again(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        async with served.caller() as envoy:
            await envoy.send(question("hold-closed"))
            await until_held("hold-closed")
            served.socket.close()
            assert await envoy.ended()
        assert "hold-closed" in LEFT

    run(tmp_path, scenario)


def test_an_answer_that_is_given_while_draining_is_the_connections_last(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        async with served.caller() as envoy:
            await envoy.send(question("hold-drained"))
            one = await until_held("hold-drained")
            served.socket.drain()
            one.reply(LATER)
            assert (await envoy.told()).headers["connection"] == "close"
            assert await envoy.ended()

    run(tmp_path, scenario)


def test_who_asks_again_before_the_answer_is_no_envoy(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        async with served.caller() as stranger:
            await stranger.send(question("hold-twice") + question("next"))
            assert (await stranger.told()).status == 500
            assert await stranger.ended()
        assert "hold-twice" in LEFT

    with capture_logs() as logs:
        run(tmp_path, scenario)

    assert [each["error"] for each in logs] == ["AskedTwice"]
