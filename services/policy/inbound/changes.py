"""Wakes whoever streams at each change, and now and then without one: silence means a fault."""

import asyncio


class Changes:
    """Each waits from the mark that it took before it looked, so no change is missed."""

    def __init__(self, heartbeat_s: float) -> None:
        self._heartbeat_s = heartbeat_s
        self._next = asyncio.Event()

    def mark(self) -> asyncio.Event:
        return self._next

    def wake(self) -> None:
        self._next.set()
        self._next = asyncio.Event()

    async def since(self, mark: asyncio.Event) -> None:
        """Returns at the first change after it, or when it is time for a sign of life."""
        await set_within(mark, self._heartbeat_s)


async def set_within(event: asyncio.Event, at_most_s: float) -> None:
    try:
        async with asyncio.timeout(at_most_s):
            await event.wait()
    except TimeoutError:
        return
