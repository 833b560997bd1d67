"""Telemetry as the router sees it: keeps the ids of the requests it was told of, and "r1/2" of the
second attempt of r1 if that was lost.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence

from services.router.outbound.records import Record, Told


class FakeTelemetry:
    def __init__(self) -> None:
        self.told: list[str] = []
        self._news = asyncio.Event()

    async def report(self, batches: AsyncIterator[Sequence[Told]]) -> None:
        async for batch in batches:
            self.take([_name(each) for each in batch])

    def take(self, request_ids: Sequence[str]) -> None:
        self.told += request_ids
        self._news.set()

    async def told_of(self, requests: int) -> list[str]:
        while len(self.told) < requests:
            self._news.clear()
            await self._news.wait()
        return self.told


def _name(told: Told) -> str:
    if isinstance(told, Record):
        return told.ended.request_id
    return f"{told.request_id}/{told.number}"
