"""Keeps one stream to a peer open for as long as the process lives."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import NoReturn

import grpc
import structlog

_FIRST_WAIT_S = 0.05  # a restarted peer is back soon

_log = structlog.get_logger(__name__)


async def keep_open(
    once: Callable[[], Awaitable[None]],
    *,
    what: str,
    jitter: random.Random,
    at_most_s: float = 2.0,
) -> NoReturn:
    """Runs `once` again and again; it opens the stream, serves it, and returns when it ends.

    Waits between tries with full jitter, up to `at_most_s`, longer while the peer stays away: a
    try that lasted longer than that starts anew at the shortest wait. Logs the first failure of
    a row, and the first success after it is the caller's to log. Ends by cancellation alone.
    """
    loop = asyncio.get_running_loop()
    ceiling_s = _FIRST_WAIT_S
    failing = False
    while True:
        began_s = loop.time()
        reason = "ended"
        try:
            await once()
        except (grpc.aio.AioRpcError, OSError, TimeoutError) as error:
            reason = error.code().name if isinstance(error, grpc.aio.AioRpcError) else str(error)
        if loop.time() - began_s > at_most_s:
            ceiling_s, failing = _FIRST_WAIT_S, False
        if not failing:
            _log.warning("stream.lost", stream=what, reason=reason)
            failing = True
        await asyncio.sleep(jitter.uniform(0.0, ceiling_s))
        ceiling_s = min(at_most_s, ceiling_s * 2)
