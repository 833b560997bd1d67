"""Waits for the engine that end in time: shortly before a deadline, or when the engine is stuck."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.chassis.deadline import Deadline
from services.runtime.core.engine import EngineFailed
from services.runtime.inbound.cuts import Cut

END_EARLY_S = 0.05  # before the caller's deadline: later, Envoy's timer resets the stream first


class EngineStalled(EngineFailed):
    """The engine has work and does none of it; another endpoint serves."""


class Patience:
    def __init__(self) -> None:
        self.stalled = False
        self._waits: set[asyncio.Timeout] = set()

    @asynccontextmanager
    async def until(self, deadline: Deadline, cut: Cut | None = None) -> AsyncIterator[None]:
        """Raises TimeoutError a little before the deadline, EngineStalled as soon as it is, and
        what `cut` raises as soon as it does."""
        cut = cut or Cut()
        cut.check()
        if self.stalled:
            raise EngineStalled(_WHY)
        at_s = None if math.isinf(deadline.at_s) else deadline.at_s - END_EARLY_S
        wait = asyncio.timeout_at(at_s)
        self._waits.add(wait)
        cut.waits(wait)
        try:
            async with wait:
                yield
        except TimeoutError:
            cut.check()
            if self.stalled:
                raise EngineStalled(_WHY) from None
            raise
        finally:
            self._waits.discard(wait)
            cut.waits(None)

    def end(self) -> int:
        """Ends all waits, and those to come, until `begin`; returns how many there were."""
        self.stalled = True
        now_s = asyncio.get_running_loop().time()
        for wait in self._waits:
            if not wait.expired():
                wait.reschedule(now_s)
        return len(self._waits)

    def begin(self) -> None:
        self.stalled = False


_WHY = "the engine makes no progress"
