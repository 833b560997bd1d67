"""A runtime that hands over the answers that the test gives it."""

import asyncio
from collections.abc import AsyncGenerator

import grpc
from grpc.aio import Metadata

from services.router.core.response_cache import Answer


class FakeAnswers:
    """`give` an answer, `stop` to end the stream, `die` to break it."""

    def __init__(self) -> None:
        self._words: asyncio.Queue[tuple[str, Answer] | Exception | None] = asyncio.Queue()

    def give(self, key: str, answer: Answer) -> None:
        self._words.put_nowait((key, answer))

    def stop(self) -> None:
        self._words.put_nowait(None)

    def die(self) -> None:
        self._words.put_nowait(
            grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, Metadata(), Metadata(), "died", "")
        )

    async def answers(self) -> AsyncGenerator[tuple[str, Answer], None]:
        while (word := await self._words.get()) is not None:
            if isinstance(word, Exception):
                raise word
            yield word
