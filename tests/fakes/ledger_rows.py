"""The ledger's rows in memory, and transactions on them that can be lost midway."""

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from services.policy.core.booking import Router, Rows
from services.policy.core.ledger import Account, Tally
from services.policy.core.settling import AttemptKey, AttemptUsage, Journal

T = TypeVar("T")


class FakeRows:
    def __init__(self) -> None:
        self.accounts: dict[Account, Tally] = {}
        self.held: dict[str, dict[Account, int]] = {}
        self.routers: dict[str, Router] = {}
        self.journals: dict[str, Journal] = {}
        self.attempts: dict[AttemptKey, AttemptUsage] = {}

    def tallies(self, accounts: Collection[Account]) -> dict[Account, Tally]:
        return {each: self.accounts.get(each, Tally()) for each in accounts}

    def keep_tallies(self, tallies: Mapping[Account, Tally]) -> None:
        self.accounts.update(tallies)

    def holdings(self, router: str, accounts: Collection[Account]) -> dict[Account, int]:
        return {each: self.held.get(router, {}).get(each, 0) for each in accounts}

    def all_holdings(self, router: str) -> dict[Account, int]:
        return {each: units for each, units in self.held.get(router, {}).items() if units}

    def keep_holdings(self, router: str, holdings: Mapping[Account, int]) -> None:
        self.held.setdefault(router, {}).update(holdings)

    def router(self, name: str) -> Router | None:
        return self.routers.get(name)

    def keep_router(self, name: str, router: Router) -> None:
        self.routers[name] = router

    def routers_seen_since(self, unix_s: float) -> int:
        known = self.routers.values()
        return sum(not each.gone and each.seen_unix_s >= unix_s for each in known)

    def routers_unseen_since(self, unix_s: float) -> Sequence[str]:
        known = self.routers.items()
        return [name for name, each in known if not each.gone and each.seen_unix_s < unix_s]

    def journal(self, name: str) -> Journal | None:
        return self.journals.get(name)

    def keep_journal(self, name: str, journal: Journal) -> None:
        self.journals[name] = journal

    def journals_at(self, endpoint: str) -> int:
        known = self.journals.values()
        return sum(each.endpoint == endpoint and not each.forgotten for each in known)

    def forget_journals(self, endpoint: str) -> int:
        there = {
            name: each
            for name, each in self.journals.items()
            if each.endpoint == endpoint and not each.forgotten
        }
        for name, each in there.items():
            self.journals[name] = replace(each, forgotten=True)
        return len(there)

    def settled_until_unix_s(self) -> float | None:
        known = [each for each in self.journals.values() if not each.forgotten]
        return min((each.told_until_unix_s for each in known), default=None)

    def booked(self, keys: Collection[AttemptKey]) -> set[AttemptKey]:
        return {each for each in keys if each in self.attempts}

    def book(self, journal: str, attempts: Sequence[AttemptUsage], now_unix_s: float) -> None:
        for each in attempts:
            assert each.key not in self.attempts
            self.attempts[each.key] = each


class FakeTransactions:
    def __init__(self) -> None:
        self.rows = FakeRows()

    def run(self, work: Callable[[Rows], T]) -> T:
        """All of it happens, or none: where it raises, nothing has."""
        rows = copy.deepcopy(self.rows)
        result = work(rows)
        self.rows = rows
        return result

    def restart(self) -> None:
        """What is kept outlives it."""
