"""What happens to the ledger's rows when a router asks, a runtime reports, or either is gone.

Each function here is one transaction's work: rows are read and kept through `Rows`, and all of it
happens or none. So whatever dies in between, nothing is half done; and what is asked or reported
again, since its answer was lost, happens once.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from services.policy.core import windows
from services.policy.core.ledger import NOTHING, Account, Grant, Tally, given_back, granted, settled
from services.policy.core.settling import (
    AttemptKey,
    AttemptUsage,
    Journal,
    Report,
    Settled,
    accepted,
)
from services.policy.core.tenants import Budget

SEEN_EVERY_S = 5.0  # at least so often a connected router is written down
WINDOW_SLACK_S = 60.0  # around a window: so far apart may clocks be, and so old a want
SLACK_S = 5.0 + SEEN_EVERY_S  # for clocks that differ, and for the age of `seen_unix_s`

Budgets = Mapping[str, Budget]  # by "<tenant>/<id>"


class RouterGone(Exception):
    """What this router held was given up while it was away; it starts anew under another name."""


class InvalidRequest(ValueError):
    """A field can't be meant; mend it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field} {message}")
        self.field = field


@dataclass(frozen=True, slots=True)
class Router:
    """A router's process, as the ledger knows it."""

    seen_unix_s: float  # its Lease stream was open; up to SEEN_EVERY_S old
    sequence: int = 0  # of the last request that happened; 0: none
    grants: tuple[Grant, ...] = ()  # the answer to it
    gone: bool = False  # its holdings were released; for good


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """One request of a router."""

    router: str
    sequence: int
    wants: Mapping[Account, int]
    returns: Mapping[Account, int]


class Rows(Protocol):
    """The ledger's tables within one transaction."""

    def tallies(self, accounts: Collection[Account]) -> dict[Account, Tally]:
        """Of each; one that is not there has nothing in it."""

    def keep_tallies(self, tallies: Mapping[Account, Tally]) -> None: ...

    def holdings(self, router: str, accounts: Collection[Account]) -> dict[Account, int]:
        """Of each."""

    def all_holdings(self, router: str) -> dict[Account, int]:
        """Those that are not 0."""

    def keep_holdings(self, router: str, holdings: Mapping[Account, int]) -> None: ...

    def router(self, name: str) -> Router | None: ...

    def keep_router(self, name: str, router: Router) -> None: ...

    def routers_seen_since(self, unix_s: float) -> int: ...

    def routers_unseen_since(self, unix_s: float) -> Sequence[str]:
        """Those that are not gone."""

    def journal(self, name: str) -> Journal | None: ...

    def keep_journal(self, name: str, journal: Journal) -> None: ...

    def journals_at(self, endpoint: str) -> int:
        """How many there are that are not forgotten."""

    def forget_journals(self, endpoint: str) -> int:
        """How many there were that were not forgotten already."""

    def settled_until_unix_s(self) -> float | None:
        """The least of all journals that are not forgotten; None: there is none."""

    def booked(self, keys: Collection[AttemptKey]) -> set[AttemptKey]:
        """Those of them that are booked."""

    def book(self, journal: str, attempts: Sequence[AttemptUsage], now_unix_s: float) -> None:
        """Numbered in their order, above all before."""


def lease(rows: Rows, asked: Lease, budgets: Budgets, *, now_unix_s: float) -> tuple[Grant, ...]:
    """As many grants as wants, in their order; those of before where the request is the last again.

    Raises:
        RouterGone: it was away for too long.
        InvalidRequest: it is neither the last request nor the one after it.
    """
    router = rows.router(asked.router)
    if (router is None and asked.sequence != 1) or (router is not None and router.gone):
        raise RouterGone(f"{asked.router} was away for too long, or is unknown; start anew")
    before = router or Router(now_unix_s)
    if asked.sequence == before.sequence:
        rows.keep_router(asked.router, replace(before, seen_unix_s=now_unix_s))
        return before.grants
    if asked.sequence != before.sequence + 1:
        message = f"must be {before.sequence} or the next, got {asked.sequence}"
        raise InvalidRequest("sequence", message)
    rows.keep_router(asked.router, replace(before, seen_unix_s=now_unix_s))
    connected = rows.routers_seen_since(now_unix_s - 2 * SEEN_EVERY_S)
    grants = _exchanged(rows, asked, _Offer(budgets, connected, now_unix_s))
    rows.keep_router(asked.router, Router(now_unix_s, asked.sequence, grants))
    return grants


def settle(rows: Rows, report: Report, *, now_unix_s: float) -> Settled:
    """Books what is new of it.

    Raises LeftOut; then nothing of it is booked.
    """
    known = rows.journal(report.journal)
    journal, fresh = accepted(known, report)
    taken = rows.booked([each.key for each in fresh])
    new = [each for each in fresh if each.key not in taken]
    if new:
        rows.book(report.journal, new, now_unix_s)
        _charge(rows, new)
    if journal != known:
        rows.keep_journal(report.journal, journal)
    began = bool(fresh) and not (known and known.booked)
    return Settled(journal.booked, len(new), fresh[0].sequence if began else 0)


def seen(rows: Rows, name: str, *, now_unix_s: float) -> None:
    """Its Lease stream is open. Raises RouterGone."""
    router = rows.router(name)
    if router is None or router.gone:
        raise RouterGone(f"{name} was away for too long, or is unknown; start anew")
    rows.keep_router(name, replace(router, seen_unix_s=now_unix_s))


def release(
    rows: Rows, *, longest_request_s: float, now_unix_s: float
) -> dict[str, dict[Account, int]]:
    """What routers held of which no attempt can be under way or untold any more, by router."""
    told_until = rows.settled_until_unix_s()
    if told_until is None:
        return {}
    until = min(told_until, now_unix_s)  # a runtime's clock that is ahead releases nothing early
    released = {}
    for name in rows.routers_unseen_since(until - longest_request_s - SLACK_S):
        released[name] = rows.all_holdings(name)
        _give_back(rows, name, released[name])
        rows.keep_router(name, Router(until, gone=True))
    return released


@dataclass(frozen=True, slots=True)
class _Offer:
    budgets: Budgets
    routers: int
    now_unix_s: float

    def budget(self, account: Account) -> Budget | None:
        """None: nothing of this account may be had."""
        found = self.budgets.get(account.budget)
        if found is None or not windows.is_open(
            found.window, account.window_start_unix_s, self.now_unix_s, within_s=WINDOW_SLACK_S
        ):
            return None
        return found


def _exchanged(rows: Rows, asked: Lease, offer: _Offer) -> tuple[Grant, ...]:
    if asked.returns:
        _give_back(rows, asked.router, asked.returns)
    tallies = rows.tallies(asked.wants)
    holdings = rows.holdings(asked.router, asked.wants)
    grants = []
    for account, wanted in asked.wants.items():
        budget, grant = offer.budget(account), NOTHING
        if budget is not None:
            tally = tallies[account]
            tallies[account], grant = granted(budget, tally, wanted, routers=offer.routers)
            holdings[account] += grant.units
        grants.append(grant)
    given = {each for each, grant in zip(asked.wants, grants, strict=True) if grant.units}
    rows.keep_tallies({each: tallies[each] for each in given})
    rows.keep_holdings(asked.router, {each: holdings[each] for each in given})
    return tuple(grants)


def _give_back(rows: Rows, router: str, returns: Mapping[Account, int]) -> None:
    tallies, holdings = rows.tallies(returns), rows.holdings(router, returns)
    for account, units in returns.items():
        after = given_back(tallies[account], holdings[account], units)
        tallies[account], holdings[account] = after
    rows.keep_tallies(tallies)
    rows.keep_holdings(router, holdings)


def _charge(rows: Rows, attempts: Iterable[AttemptUsage]) -> None:
    used: dict[str, dict[Account, int]] = {}
    for attempt in attempts:
        of_router = used.setdefault(attempt.router, {})
        for account, units in attempt.charges.items():
            of_router[account] = of_router.get(account, 0) + units
    for router, charges in used.items():
        tallies, holdings = rows.tallies(charges), rows.holdings(router, charges)
        for account, units in charges.items():
            after = settled(tallies[account], holdings[account], units)
            tallies[account], holdings[account] = after
        rows.keep_tallies(tallies)
        rows.keep_holdings(router, holdings)
