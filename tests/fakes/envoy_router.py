"""A router as Envoy sees it: answers Check from a script, keeps what it was asked and told."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from envoy.service.accesslog.v3 import als_pb2
from envoy.service.accesslog.v3.als_pb2_grpc import AccessLogServiceServicer

from services.router.inbound import answers
from services.router.inbound.answers import Answer
from services.router.inbound.asked import Question
from services.router.inbound.check_socket import HEALTH

Script = Callable[[Question], Awaitable[Answer]]
_HEALTHY = Answer(200, ())


def let_go(endpoints: str, **headers: str) -> Answer:
    """Headers are named with "_" for "-"."""
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return answers.let_go({"x-evenflow-endpoints": endpoints, **named}.items())


def refuse(status: int, headers: Mapping[str, str]) -> Answer:
    return Answer(status, tuple(headers.items()))


class FakeCheck:
    """Set `answer`; read `asked`. `cancelled` is set when a held Check's caller has left."""

    def __init__(self, answer: Script) -> None:
        self.answer = answer
        self.asked: list[Question] = []
        self.cancelled = asyncio.Event()
        self._open: set[asyncio.StreamWriter] = set()

    @asynccontextmanager
    async def serving(self, socket: Path) -> AsyncIterator[None]:
        server = await asyncio.start_unix_server(self._connection, socket, backlog=4096)
        try:
            yield
        finally:
            server.close()
            for each in self._open:
                each.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            while (question := await _question(reader)) is not None:
                answer = await self._answered(question, reader)
                if answer is None:
                    break
                writer.write(answer.encoded())
        finally:
            self._open.discard(writer)
            writer.close()

    async def _answered(self, question: Question, reader: asyncio.StreamReader) -> Answer | None:
        """None: who asked has left."""
        if question.path == HEALTH:
            return _HEALTHY
        self.asked.append(question)
        async with asyncio.TaskGroup() as tasks:
            answering = tasks.create_task(_awaited(self.answer(question)))
            watching = tasks.create_task(self._cancel_if_left(answering, reader))
            await asyncio.wait([answering])
            watching.cancel()
        return None if answering.cancelled() else answering.result()

    async def _cancel_if_left(
        self, answering: asyncio.Task[Answer], reader: asyncio.StreamReader
    ) -> None:
        await reader.read(1)  # Envoy asks nothing more until it has its answer
        answering.cancel()
        self.cancelled.set()


async def _awaited(answer: Awaitable[Answer]) -> Answer:
    return await answer


async def _question(reader: asyncio.StreamReader) -> Question | None:
    """None: there is no further one."""
    try:
        lines = [(await reader.readline()).decode("latin-1").rstrip("\r\n")]
        while lines[-1]:
            lines.append((await reader.readline()).decode("latin-1").rstrip("\r\n"))
        if len(lines) == 1:
            return None
        headers = dict(line.split(": ", 1) for line in lines[1:-1])
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    except (ConnectionError, asyncio.IncompleteReadError):
        return None
    return Question(lines[0].split(" ")[1], headers, body)


class FakeAccessLog(AccessLogServiceServicer):  # type: ignore[misc] # untyped
    """Await `entry()` for each request's end, in order."""

    def __init__(self) -> None:
        self._entries: asyncio.Queue[Any] = asyncio.Queue()

    async def StreamAccessLogs(  # noqa: N802 - gRPC's name
        self, request_iterator: AsyncIterator[Any], context: Any
    ) -> Any:
        async for message in request_iterator:
            for entry in message.http_logs.log_entry:
                self._entries.put_nowait(entry)
        return als_pb2.StreamAccessLogsResponse()

    async def entry(self) -> Any:
        async with asyncio.timeout(5):
            return await self._entries.get()
