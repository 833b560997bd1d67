"""Keeps the ledger tidy: gives up what routers that are gone held, forgets what is too old."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn, Protocol

import structlog

from services.policy.core.ledger import Account
from services.policy.outbound.database import DatabaseUnreachable

RELEASE_EVERY_S = 5.0
# After a start, or an outage of the database: routers that were merely cut off are back by then and
# say so before what they hold is given to others.
RECOVERED_S = 15.0  # they try at least every 2 s
_PRUNE_EVERY_S = 3_600.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Upkeep:
    longest_request_s: float
    keep_s: float  # how long attempts are remembered


class Tended(Protocol):
    """The books, as far as they need tending."""

    async def release(
        self, *, longest_request_s: float, now_unix_s: float
    ) -> Mapping[str, Mapping[Account, int]]: ...

    async def prune(self, before_unix_s: float) -> int: ...

    async def answer(self) -> None:
        """Raises DatabaseUnreachable."""


async def keep_up(books: Tended, upkeep: Upkeep, now_unix_s: Callable[[], float]) -> NoReturn:
    """Ends by cancellation alone: without the database it tries again."""
    pruned_at_s, clock = float("-inf"), asyncio.get_running_loop().time
    answers_since_s = clock()
    while True:
        try:
            await books.answer()
            if clock() - answers_since_s >= RECOVERED_S:
                await release(books, upkeep, now_unix_s())
            if clock() - pruned_at_s >= _PRUNE_EVERY_S:
                pruned = await books.prune(now_unix_s() - upkeep.keep_s)
                pruned_at_s = clock()
                _log.info("attempts.pruned", attempts=pruned)
        except DatabaseUnreachable as error:
            _log.warning("upkeep.failed", why=str(error))
            answers_since_s = clock()
        await asyncio.sleep(RELEASE_EVERY_S)


async def release(books: Tended, upkeep: Upkeep, now_unix_s: float) -> None:
    """A line for each router that had something left."""
    released = await books.release(
        longest_request_s=upkeep.longest_request_s, now_unix_s=now_unix_s
    )
    for router, held in released.items():
        if held:
            units = {f"{each.budget}@{each.window_start_unix_s}": held[each] for each in held}
            _log.warning("holdings.released", router=router, units=units)
