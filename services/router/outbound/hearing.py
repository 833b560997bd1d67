"""Ends what is done with a peer once it has been silent for too long."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.router.core.silence import LOOK_EVERY_S, Silence


@asynccontextmanager
async def while_heard(silence: Silence) -> AsyncIterator[None]:
    """Raises TimeoutError in its body when the silence is too long."""
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle | None = None
    async with asyncio.timeout(None) as patience:

        def look() -> None:
            nonlocal timer
            if silence.too_long(loop.time()):
                patience.reschedule(loop.time())
            else:
                timer = loop.call_later(LOOK_EVERY_S, look)

        look()
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()
