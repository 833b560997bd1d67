"""A runtime that loses attempts, as the router sees it: keeps all, and tells each listener all."""

import asyncio
from collections.abc import AsyncGenerator

import grpc
from grpc.aio import Metadata

from services.router.core.attempts import LostAttempt


class FakeAttemptSource:
    """`lose` an attempt; `stop` ends the streams, `die` breaks them."""

    def __init__(self, address: str, *lost: LostAttempt) -> None:
        self.address = address
        self._lost = [*lost]
        self._changed = asyncio.Condition()
        self._over: Exception | bool = False

    async def lose(self, attempt: LostAttempt) -> None:
        async with self._changed:
            self._lost.append(attempt)
            self._changed.notify_all()

    async def stop(self) -> None:
        await self._end(over=True)

    async def die(self) -> None:
        died = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, Metadata(), Metadata(), "died", "")
        await self._end(over=died)

    async def _end(self, *, over: Exception | bool) -> None:
        async with self._changed:
            self._over = over
            self._changed.notify_all()

    async def attempts(self) -> AsyncGenerator[LostAttempt, None]:
        place = 0
        while True:
            for each in self._lost[place:]:
                place += 1
                yield each
            if isinstance(self._over, Exception):
                raise self._over
            if self._over:
                return
            async with self._changed:
                while not self._over and len(self._lost) == place:
                    await self._changed.wait()
