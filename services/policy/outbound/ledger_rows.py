"""The ledger's rows in the database: core/booking.py's `Rows` on one transaction's connection."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import Connection, Table, delete, func, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite

from services.policy.core.booking import Router
from services.policy.core.ledger import Account, Grant, Tally
from services.policy.core.settling import AttemptKey, AttemptUsage, Journal
from services.policy.outbound.ledger_tables import (
    accounts,
    attempts,
    holdings,
    journals,
    routers,
    settlements,
)

T = TypeVar("T")

_AT_ONCE = 5_000  # pairs in one statement; SQLite takes 32,766 values
_UPSERTS: Mapping[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


class SqlRows:
    """Good for one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def tallies(self, wanted: Collection[Account]) -> dict[Account, Tally]:
        found = {
            Account(row.budget, row.window_start_unix_s): Tally(row.spent, row.held)
            for pairs in _pairs(wanted)
            for row in self._connection.execute(select(accounts).where(_among(accounts, pairs)))
        }
        return {each: found.get(each, Tally()) for each in wanted}

    def keep_tallies(self, tallies: Mapping[Account, Tally]) -> None:
        self._upsert(
            accounts,
            [
                {**_named(each), "spent": tally.spent, "held": tally.held}
                for each, tally in tallies.items()
            ],
        )

    def holdings(self, router: str, wanted: Collection[Account]) -> dict[Account, int]:
        found = {
            Account(row.budget, row.window_start_unix_s): row.units
            for pairs in _pairs(wanted)
            for row in self._connection.execute(
                select(holdings).where(holdings.c.router == router, _among(holdings, pairs))
            )
        }
        return {each: found.get(each, 0) for each in wanted}

    def all_holdings(self, router: str) -> dict[Account, int]:
        found = select(holdings).where(holdings.c.router == router)
        return {
            Account(row.budget, row.window_start_unix_s): row.units
            for row in self._connection.execute(found)
        }

    def keep_holdings(self, router: str, kept: Mapping[Account, int]) -> None:
        self._upsert(
            holdings,
            [
                {**_named(each), "router": router, "units": units}
                for each, units in kept.items()
                if units
            ],
        )
        for pairs in _pairs(each for each, units in kept.items() if not units):
            of_router = holdings.c.router == router
            self._connection.execute(delete(holdings).where(of_router, _among(holdings, pairs)))

    def router(self, name: str) -> Router | None:
        row = self._connection.execute(select(routers).where(routers.c.name == name)).one_or_none()
        if row is None:
            return None
        grants = tuple(Grant(*each) for each in row.grants)
        return Router(row.seen_unix_s, row.sequence, grants, row.gone)

    def keep_router(self, name: str, router: Router) -> None:
        row = {
            "name": name,
            "seen_unix_s": router.seen_unix_s,
            "sequence": router.sequence,
            "grants": [[each.units, each.scarce, each.low] for each in router.grants],
            "gone": router.gone,
        }
        self._upsert(routers, [row])

    def routers_seen_since(self, unix_s: float) -> int:
        lately = routers.c.seen_unix_s >= unix_s
        found = select(func.count()).select_from(routers).where(lately, ~routers.c.gone)
        return int(self._connection.execute(found).scalar_one())

    def routers_unseen_since(self, unix_s: float) -> Sequence[str]:
        long_ago = routers.c.seen_unix_s < unix_s
        found = select(routers.c.name).where(long_ago, ~routers.c.gone)
        return self._connection.execute(found).scalars().all()

    def journal(self, name: str) -> Journal | None:
        found = select(journals).where(journals.c.name == name)
        row = self._connection.execute(found).one_or_none()
        if row is None:
            return None
        return Journal(row.endpoint, row.told_until_unix_s, row.booked, row.forgotten)

    def keep_journal(self, name: str, journal: Journal) -> None:
        row = {
            "name": name,
            "endpoint": journal.endpoint,
            "told_until_unix_s": journal.told_until_unix_s,
            "booked": journal.booked,
            "forgotten": journal.forgotten,
        }
        self._upsert(journals, [row])

    def journals_at(self, endpoint: str) -> int:
        there = (journals.c.endpoint == endpoint) & ~journals.c.forgotten
        found = select(func.count()).select_from(journals).where(there)
        return int(self._connection.execute(found).scalar_one())

    def forget_journals(self, endpoint: str) -> int:
        there = (journals.c.endpoint == endpoint) & ~journals.c.forgotten
        gone = update(journals).where(there).values(forgotten=True)
        return self._connection.execute(gone).rowcount

    def settled_until_unix_s(self) -> float | None:
        least = select(func.min(journals.c.told_until_unix_s)).where(~journals.c.forgotten)
        found: float | None = self._connection.execute(least).scalar_one()
        return found

    def booked(self, keys: Collection[AttemptKey]) -> set[AttemptKey]:
        key = tuple_(attempts.c.reservation, attempts.c.attempt)
        return {
            AttemptKey(row.reservation, row.attempt)
            for some in _some(keys)
            for row in self._connection.execute(
                select(attempts.c.reservation, attempts.c.attempt).where(key.in_(some))
            )
        }

    def book(self, journal: str, booked: Sequence[AttemptUsage], now_unix_s: float) -> None:
        counted = update(settlements).values(last_number=settlements.c.last_number + len(booked))
        last = self._connection.execute(counted.returning(settlements.c.last_number)).scalar_one()
        first = last - len(booked) + 1
        self._connection.execute(
            attempts.insert(),
            [
                {
                    **_attempt(each),
                    "number": number,
                    "journal": journal,
                    "booked_unix_s": now_unix_s,
                }
                for number, each in enumerate(booked, first)
            ],
        )

    def _upsert(self, table: Table, rows: Sequence[Mapping[str, object]]) -> None:
        if not rows:
            return
        insert = _UPSERTS[self._connection.dialect.name](table)
        keys = table.primary_key.columns.keys()
        replaced = {name: insert.excluded[name] for name in rows[0] if name not in keys}
        made = insert.on_conflict_do_update(index_elements=keys, set_=replaced)
        self._connection.execute(made, rows)


def _pairs(wanted: Iterable[Account]) -> Iterator[tuple[tuple[str, int], ...]]:
    return _some((each.budget, each.window_start_unix_s) for each in wanted)


def _some(items: Iterable[T]) -> Iterator[tuple[T, ...]]:
    """As many as one statement takes, until there are no more."""
    left = iter(items)
    while some := tuple(islice(left, _AT_ONCE)):
        yield some


def _among(table: Table, pairs: Sequence[tuple[str, int]]) -> Any:
    return tuple_(table.c.budget, table.c.window_start_unix_s).in_(pairs)


def _named(account: Account) -> dict[str, object]:
    return {"budget": account.budget, "window_start_unix_s": account.window_start_unix_s}


def _attempt(usage: AttemptUsage) -> dict[str, object]:
    return {
        "reservation": usage.key.reservation,
        "attempt": usage.key.attempt,
        "router": usage.router,
        "sequence": usage.sequence,
        "request_id": usage.request_id,
        "tenant": usage.tenant,
        "workload": usage.workload,
        "model": usage.model,
        "model_version": usage.model_version,
        "prompt_tokens": usage.prompt_tokens,
        "cached_prompt_tokens": usage.cached_prompt_tokens,
        "output_tokens": usage.output_tokens,
        "charges": [
            [account.budget, account.window_start_unix_s, units]
            for account, units in usage.charges.items()
        ],
        "ended_unix_s": usage.ended_unix_s,
        "presumed": usage.presumed,
    }
