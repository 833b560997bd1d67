"""The ledger in the database: each call is one transaction."""

from collections.abc import Callable, Collection
from typing import TypeVar

from sqlalchemy import Connection, delete, select

from services.policy.core import booking
from services.policy.core.booking import Budgets, Lease, Rows
from services.policy.core.ledger import Account, Grant, Tally
from services.policy.core.settling import AttemptKey, News, Report, Settled, Settlement
from services.policy.outbound.database import Database
from services.policy.outbound.ledger_rows import SqlRows
from services.policy.outbound.ledger_tables import accounts, attempts, routers

T = TypeVar("T")

_NEWS_AT_ONCE = 1_000  # settlements: 200 KB
_LONGEST_WINDOW_S = 31 * 86_400


class Books:
    """Everything raises DatabaseUnreachable; what is asked again then happens once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def lease(self, asked: Lease, budgets: Budgets, now_unix_s: float) -> tuple[Grant, ...]:
        """See booking.lease."""
        return await self._run(
            lambda rows: booking.lease(rows, asked, budgets, now_unix_s=now_unix_s)
        )

    async def settle(self, report: Report, now_unix_s: float) -> Settled:
        """See booking.settle."""
        return await self._run(lambda rows: booking.settle(rows, report, now_unix_s=now_unix_s))

    async def seen(self, router: str, now_unix_s: float) -> None:
        """Its Lease stream is open. Raises RouterGone."""
        await self._run(lambda rows: booking.seen(rows, router, now_unix_s=now_unix_s))

    async def news(self, router: str, after: int) -> News:
        """Settlements of its attempts with higher numbers than `after`, the first of them."""
        return await self._database.run(lambda connection: _news(connection, router, after))

    async def tallies(self, wanted: Collection[Account]) -> dict[Account, Tally]:
        """Of each; one that is not there has nothing in it."""
        return await self._run(lambda rows: rows.tallies(wanted))

    async def journals_at(self, endpoint: str) -> int:
        """How many runtimes' journals are waited for."""
        return await self._run(lambda rows: rows.journals_at(endpoint))

    async def forget_journals(self, endpoint: str) -> int:
        """How many runtimes' journals there were."""
        return await self._run(lambda rows: rows.forget_journals(endpoint))

    async def release(
        self, *, longest_request_s: float, now_unix_s: float
    ) -> dict[str, dict[Account, int]]:
        """See booking.release."""
        return await self._run(
            lambda rows: booking.release(
                rows, longest_request_s=longest_request_s, now_unix_s=now_unix_s
            )
        )

    async def answer(self) -> None:
        """Returns if the database does."""
        await self._database.run(lambda connection: connection.execute(select(1)).scalar_one())

    async def prune(self, before_unix_s: float) -> int:
        """Forgets attempts booked before, how many; and what of theirs is over."""
        return await self._database.run(lambda connection: _prune(connection, before_unix_s))

    async def _run(self, work: Callable[[Rows], T]) -> T:
        return await self._database.run(lambda connection: work(SqlRows(connection)))


def _news(connection: Connection, router: str, after: int) -> News:
    found = connection.execute(
        select(attempts.c.number, attempts.c.reservation, attempts.c.attempt, attempts.c.charges)
        .where(attempts.c.router == router, attempts.c.number > after)
        .order_by(attempts.c.number)
        .limit(_NEWS_AT_ONCE)
    ).all()
    settlements = [
        Settlement(
            row.number,
            AttemptKey(row.reservation, row.attempt),
            {Account(budget, start): units for budget, start, units in row.charges},
        )
        for row in found
    ]
    more = len(settlements) == _NEWS_AT_ONCE
    return News(settlements, None if more else SqlRows(connection).settled_until_unix_s(), more)


def _prune(connection: Connection, before_unix_s: float) -> int:
    old = delete(attempts).where(attempts.c.booked_unix_s < before_unix_s)
    pruned = connection.execute(old).rowcount
    start = accounts.c.window_start_unix_s
    over = (start > 0) & (start < before_unix_s - _LONGEST_WINDOW_S) & (accounts.c.held == 0)
    connection.execute(delete(accounts).where(over))
    connection.execute(delete(routers).where(routers.c.gone, routers.c.seen_unix_s < before_unix_s))
    return pruned
