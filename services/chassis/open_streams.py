"""Streams that last as long as those who send them, and end with us when we drain."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.chassis.logs import add_facts


class OpenStreams:
    def __init__(self) -> None:
        self._open: set[asyncio.Timeout] = set()

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Around the reading of one. Left early, without an error, by `close`."""
        stream = asyncio.timeout(None)
        try:
            async with stream:
                self._open.add(stream)
                yield
        except TimeoutError:
            if not stream.expired():
                raise
            add_facts(ended_by="drain")
        finally:
            self._open.discard(stream)

    def close(self) -> None:
        """Answers all streams."""
        for stream in self._open:
            stream.reschedule(asyncio.get_running_loop().time())
