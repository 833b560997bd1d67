"""A runtime as the router sees it: says what the test tells it to."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

import grpc
from grpc.aio import Metadata

from services.router.core.credentials import Cut
from services.router.core.endpoints import RuntimeState


class FakeRuntime:
    """`say` a state, `stop` to end the streams, `die` to break them."""

    def __init__(self, address: str, *states: RuntimeState) -> None:
        self.address = address
        self.drained = asyncio.Event()
        self.running: set[str] = set()  # requests
        self.cuts: list[tuple[frozenset[str], Cut]] = []
        self.watched = asyncio.Event()
        self._words: asyncio.Queue[RuntimeState | Exception | None] = asyncio.Queue()
        for state in states:
            self.say(state)

    def say(self, state: RuntimeState) -> None:
        self._words.put_nowait(state)

    def stop(self) -> None:
        self._words.put_nowait(None)

    def die(self) -> None:
        self._words.put_nowait(
            grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, Metadata(), Metadata(), "died", "")
        )

    async def states(self) -> AsyncGenerator[RuntimeState, None]:
        self.watched.set()
        while (word := await self._words.get()) is not None:
            if isinstance(word, Exception):
                raise word
            yield word

    async def cut(self, request_ids: Sequence[str], why: Cut, *, within_s: float) -> int:
        self.cuts.append((frozenset(request_ids), why))
        ended = self.running & set(request_ids)
        self.running -= ended
        return len(ended)

    async def drain(self, *, within_s: float) -> None:
        self.drained.set()
