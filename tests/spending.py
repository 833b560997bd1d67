"""A mesh that spends budgets while everything in it dies: for Hypothesis, on any kind of books.

Routers lease, admit and are killed; runtimes work, report, repeat themselves and are killed; policy
dies before or after it has written. Beside the books stands a simple oracle: what was truly
granted, given back and used.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from services.policy.core import booking
from services.policy.core.booking import Lease, RouterGone, Rows
from services.policy.core.ledger import Account, Grant
from services.policy.core.settling import AttemptKey, AttemptUsage, Report
from services.policy.core.tenants import Budget, Unit, Window

T = TypeVar("T")

HARD, MONEY, SOFT = Account("acme/hard", 0), Account("acme/money", 0), Account("acme/soft", 0)
ACCOUNTS = (HARD, MONEY, SOFT)
BUDGETS = {
    "acme/hard": Budget(id="hard", unit=Unit.TOKENS, window=Window.TOTAL, limit=600),
    "acme/money": Budget(id="money", unit=Unit.MONEY, window=Window.TOTAL, limit=5_000),
    "acme/soft": Budget(id="soft", unit=Unit.TOKENS, window=Window.TOTAL, limit=50, hard=False),
}
STALE_S, LONGEST_S = 300.0, 600.0  # a router admits without policy; an attempt runs
GONE_S = STALE_S + LONGEST_S
PLENTY = {HARD: 150, MONEY: 1_000, SOFT: 150}
wanted = st.just(PLENTY) | st.dictionaries(st.sampled_from(ACCOUNTS), st.integers(1, 400))
seldom = st.sampled_from([False, False, False, True])
crashes = st.sampled_from(["no", "no", "no", "before", "after"])


class Transactions(Protocol):
    def run(self, work: Callable[[Rows], T]) -> T:
        """All of it happens, or none: where it raises, nothing has."""

    def restart(self) -> None:
        """As the policy service does."""


class Died(Exception):
    """Policy, before it had written."""


@dataclass
class Router:
    name: str
    seen_unix_s: float
    there: dict[Account, int] = field(default_factory=lambda: dict.fromkeys(ACCOUNTS, 0))
    held: dict[Account, int] = field(default_factory=lambda: dict.fromkeys(ACCOUNTS, 0))  # truly
    asked: Lease | None = None  # and not answered
    sequence: int = 0
    requests: int = 0
    alive: bool = True


@dataclass
class Attempt:
    key: AttemptKey
    router: Router
    most: dict[Account, int]
    begun_unix_s: float


@dataclass
class Runtime:
    name: str
    skew_s: float  # of its clock
    journal: list[AttemptUsage] = field(default_factory=list)
    running: dict[AttemptKey, Attempt] = field(default_factory=dict)
    heard: int = 0  # that so much is booked
    known: bool = False  # to policy, for good: before, it takes no work


class Spending(RuleBasedStateMachine):
    routers: Bundle[Router] = Bundle("routers")
    runtimes: Bundle[Runtime] = Bundle("runtimes")
    running: Bundle[tuple[Runtime, AttemptKey]] = Bundle("running")
    reports: Bundle[Report] = Bundle("reports")  # that may come late, and again

    def __init__(self, transactions: Transactions) -> None:
        super().__init__()
        self.books = transactions
        self.now_unix_s = 1_000_000.0
        self.names = 0
        self.all_routers: dict[str, Router] = {}
        self.all_runtimes: list[Runtime] = []
        self.used: dict[AttemptKey, dict[Account, int]] = {}
        self.booked: set[AttemptKey] = set()

    # what dies

    def transact(self, work: Callable[[Rows], T], crash: str) -> T | None:
        """None: nobody heard what came of it."""

        def dying(rows: Rows) -> T:
            result = work(rows)
            if crash == "before":
                raise Died
            return result

        try:
            result = self.books.run(dying)
        except Died:
            self.books.restart()
            return None
        if crash == "after":
            self.books.restart()
            return None
        return result

    @rule(router=routers, dies=seldom)
    def router_is_killed(self, router: Router, dies: bool) -> None:
        router.alive = router.alive and not dies

    @rule(runtime=runtimes, dies=seldom)
    def runtime_is_killed(self, runtime: Runtime, dies: bool) -> None:
        """It finds in its journal what was under way, and presumes the most."""
        for key in list(runtime.running) if dies else ():
            self.end(runtime, key, 1.0, presumed=True)

    # what goes on

    @initialize(target=runtimes)
    def first_runtime(self) -> Runtime:
        """Before any router: what is held is given up only where somebody tells what has ended."""
        runtime = self.new_runtime(0.0)
        self.runtime_reports(runtime, 0, "no")
        return runtime

    @rule(target=runtimes, skew_s=st.sampled_from([-2.0, 0.0, 2.0]))
    def runtime_starts(self, skew_s: float) -> Runtime:
        return self.new_runtime(skew_s)

    def new_runtime(self, skew_s: float) -> Runtime:
        self.names += 1
        runtime = Runtime(f"runtime-{self.names}", skew_s)
        self.all_runtimes.append(runtime)
        return runtime

    @rule(target=routers)
    def router_starts(self) -> Router:
        return self.new_router()

    def new_router(self) -> Router:
        self.names += 1
        router = Router(f"router.{self.names}", self.now_unix_s)
        self.all_routers[router.name] = router
        return router

    @rule(target=routers)
    def router_starts_and_leases(self) -> Router:
        router = self.new_router()
        self.leases(router, PLENTY, 0.0, "no")
        return router

    @rule(
        router=routers,
        wants=wanted,
        share=st.sampled_from([0.0, 0.0, 0.0, 0.5, 1.0]),
        crash=crashes,
    )
    def leases(self, router: Router, wants: dict[Account, int], share: float, crash: str) -> None:
        if not router.alive:
            return
        if router.asked is None:
            returns = {each: int(units * share) for each, units in router.there.items()}
            returns = {each: units for each, units in returns.items() if units}
            for account, units in returns.items():
                router.there[account] -= units
            router.asked = Lease(
                router=router.name, sequence=router.sequence + 1, wants=wants, returns=returns
            )
        self.ask(router, router.asked, crash)

    def ask(self, router: Router, asked: Lease, crash: str) -> None:
        def work(rows: Rows) -> tuple[Grant, ...]:
            return booking.lease(rows, asked, BUDGETS, now_unix_s=self.now_unix_s)

        repeated = self.books.run(lambda rows: _sequence(rows, router.name)) == asked.sequence
        try:
            grants = self.transact(work, crash)
        except RouterGone:
            assert self.now_unix_s - router.seen_unix_s > GONE_S
            router.alive = False
            return
        if crash != "before" and not repeated:
            self.note_exchange(router, asked)
        if grants is not None:
            for account, grant in zip(asked.wants, grants, strict=True):
                assert grant.units <= asked.wants[account]
                router.there[account] += grant.units
            router.sequence, router.asked = asked.sequence, None
            router.seen_unix_s = self.now_unix_s

    def note_exchange(self, router: Router, asked: Lease) -> None:
        """What was truly granted, as a repeated request would be told."""
        grants = self.books.run(
            lambda rows: booking.lease(rows, asked, BUDGETS, now_unix_s=self.now_unix_s)
        )
        for account, units in asked.returns.items():
            router.held[account] -= units
        for account, grant in zip(asked.wants, grants, strict=True):
            router.held[account] += grant.units

    @rule(
        target=running,
        router=routers,
        runtime=runtimes,
        most=st.sampled_from([1, 10, 30, 60]),
        arms=st.integers(1, 2),
    )
    def admits(self, router: Router, runtime: Runtime, most: int, arms: int) -> Any:
        """Twice what one attempt may use where a hedge may run."""
        charges = {HARD: most, MONEY: most * 7, SOFT: most}
        lately = self.now_unix_s - router.seen_unix_s <= STALE_S
        enough = all(router.there[each] >= units * arms for each, units in charges.items())
        if not (router.alive and runtime.known and lately and enough):
            return multiple()
        router.requests += 1
        made = []
        for number in range(1, arms + 1):
            key = AttemptKey(f"{router.name}.{router.requests}", number)
            runtime.running[key] = Attempt(key, router, charges, self.now_unix_s)
            made.append((runtime, key))
        for account, units in charges.items():
            router.there[account] -= units * arms
        return multiple(*made)

    @rule(attempt=consumes(running), share=st.sampled_from([0.0, 0.3, 1.0]), heard=st.booleans())
    def attempt_ends(self, attempt: tuple[Runtime, AttemptKey], share: float, heard: bool) -> None:
        runtime, key = attempt
        if key in runtime.running:
            ended = self.end(runtime, key, share)
            if heard:  # by the access log; else the router learns it by the settlement
                for account, units in ended.most.items():
                    ended.router.there[account] += units - self.used[key][account]

    def end(
        self, runtime: Runtime, key: AttemptKey, share: float, *, presumed: bool = False
    ) -> Attempt:
        attempt = runtime.running.pop(key)
        used = {account: int(units * share) for account, units in attempt.most.items()}
        self.used[key] = used
        runtime.journal.append(
            AttemptUsage(
                sequence=len(runtime.journal) + 1, key=key, charges=used, presumed=presumed
            )
        )
        return attempt

    @rule(target=reports, runtime=runtimes, again=st.integers(0, 3), crash=crashes)
    def runtime_reports(self, runtime: Runtime, again: int, crash: str) -> Report:
        told = min((each.begun_unix_s for each in runtime.running.values()), default=None)
        report = Report(
            journal=runtime.name,
            endpoint=f"{runtime.name}:9101",
            told_until_unix_s=(self.now_unix_s if told is None else told) + runtime.skew_s,
            attempts=tuple(runtime.journal[max(0, runtime.heard - again) :]),
        )
        booked = self.deliver(report, crash)
        if booked is not None:
            assert booked == len(runtime.journal)
            runtime.heard, runtime.known = booked, True
        return report

    @rule(report=reports, crash=crashes)
    def report_comes_again(self, report: Report, crash: str) -> None:
        self.deliver(report, crash)

    def deliver(self, report: Report, crash: str) -> int | None:
        settled = self.transact(
            lambda rows: booking.settle(rows, report, now_unix_s=self.now_unix_s), crash
        )
        if crash != "before":
            self.book(report)
        return None if settled is None else settled.booked

    def book(self, report: Report) -> None:
        for each in report.attempts:
            if each.key not in self.booked:
                self.booked.add(each.key)
                for account, units in each.charges.items():
                    self.all_routers[each.router].held[account] -= units

    @rule(passed_s=st.sampled_from([1.0, 1.0, 1.0, 30.0, 290.0, 700.0, 1200.0]))
    def time_passes(self, passed_s: float) -> None:
        """No attempt runs longer than it may."""
        self.now_unix_s += passed_s
        for runtime in self.all_runtimes:
            for key, attempt in list(runtime.running.items()):
                if attempt.begun_unix_s + LONGEST_S <= self.now_unix_s:
                    self.end(runtime, key, 1.0)

    @rule(crash=crashes)
    def holdings_are_released(self, crash: str) -> None:
        def work(rows: Rows) -> dict[str, dict[Account, int]]:
            return booking.release(rows, longest_request_s=GONE_S, now_unix_s=self.now_unix_s)

        before = self.books.run(_gone_of(self.all_routers))
        self.transact(work, crash)
        for name in self.books.run(_gone_of(self.all_routers)) - before:
            router = self.all_routers[name]
            assert not any(
                attempt.router is router
                for runtime in self.all_runtimes
                for attempt in runtime.running.values()
            )
            router.held = dict.fromkeys(ACCOUNTS, 0)

    # what must hold

    @invariant()
    def the_books_are_the_oracles(self) -> None:
        tallies = self.books.run(lambda rows: rows.tallies(ACCOUNTS))
        for account, tally in tallies.items():
            assert tally.spent == sum(self.used[key][account] for key in self.booked)
            assert tally.held == sum(each.held[account] for each in self.all_routers.values())

    @invariant()
    def no_hard_budget_is_overspent(self) -> None:
        tallies = self.books.run(lambda rows: rows.tallies((HARD, MONEY)))
        for account, tally in tallies.items():
            limit = BUDGETS[account.budget].limit
            assert tally.spent + tally.held <= limit
            assert sum(each[account] for each in self.used.values()) <= limit

    def teardown(self) -> None:
        """Everybody dies, all is told: what is spent was used, and nothing is held any more."""
        for runtime in self.all_runtimes:
            self.runtime_is_killed(runtime, dies=True)
        self.now_unix_s += GONE_S + 100.0
        for runtime in self.all_runtimes:
            self.runtime_reports(runtime, 0, "no")
        self.holdings_are_released("no")
        tallies = self.books.run(lambda rows: rows.tallies(ACCOUNTS))
        for account, tally in tallies.items():
            assert tally.spent == sum(each[account] for each in self.used.values())
            assert tally.held == 0


def _gone_of(names: Iterable[str]) -> Callable[[Rows], set[str]]:
    def work(rows: Rows) -> set[str]:
        found = {name: rows.router(name) for name in names}
        return {name for name, each in found.items() if each is not None and each.gone}

    return work


def _sequence(rows: Rows, name: str) -> int:
    router = rows.router(name)
    return router.sequence if router else 0
