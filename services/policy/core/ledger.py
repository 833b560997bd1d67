"""The ledger's arithmetic: what an account has spent, what routers hold of it, what is left.

An account is one budget in one of its windows. It counts in whole units, tokens or billionths of a
currency. A router is granted slices of it and admits out of what it holds, so no request asks here.
What a router holds counts as gone, until it says that it does not need it, or the runtimes' reports
of what its requests used make it spent.

So of a hard budget: spent + held is never above the limit, and true usage is never above that,
whatever is lost on the way: a slice whose grant nobody heard of stays held, a report that comes
twice is taken once (core/booking.py), and one that never comes leaves the slice held.
"""

from dataclasses import dataclass, replace

from services.policy.core.tenants import Budget

LEAST_SHARE = 64  # of the limit: smaller slices would be asked for all the time
SCARCE_SHARE = 8  # of the limit: with less left, what lies idle somewhere is missed elsewhere


@dataclass(frozen=True, slots=True, order=True)
class Account:
    """One budget in one of its windows."""

    budget: str  # "<tenant>/<id of the budget>"
    window_start_unix_s: int  # 0: the window is the total


@dataclass(frozen=True, slots=True)
class Tally:
    """Of an account, all routers together."""

    spent: int = 0
    held: int = 0


@dataclass(frozen=True, slots=True)
class Grant:
    units: int  # 0 to what was wanted
    scarce: bool = False  # what is left for others is little
    low: bool = False  # less than its low share is left


NOTHING = Grant(0)


def left(budget: Budget, tally: Tally) -> int:
    """Below 0 where a soft budget is overdrawn, or the limit of a hard one was lowered."""
    return budget.limit - tally.spent - tally.held


def granted(budget: Budget, tally: Tally, wanted: int, *, routers: int) -> tuple[Tally, Grant]:
    """How much of `wanted` a router gets now. `routers`: that are connected.

    At most its even share of half of what is left: the last units go out in ever smaller slices, so
    that little lies idle where nobody asks for it. A soft budget holds nobody up.
    """
    units = min(wanted, _most(budget, max(0, left(budget, tally)), max(1, routers)))
    units = units if budget.hard else wanted
    after = replace(tally, held=tally.held + units)
    still = left(budget, after)
    return after, Grant(
        units,
        scarce=budget.hard and (units < wanted or still * SCARCE_SHARE < budget.limit),
        low=still < budget.low_share * budget.limit,
    )


def given_back(tally: Tally, holding: int, units: int) -> tuple[Tally, int]:
    """By the router that holds them; never more than it holds."""
    units = min(units, holding)
    return replace(tally, held=tally.held - units), holding - units


def settled(tally: Tally, holding: int, used: int) -> tuple[Tally, int]:
    """A router's attempts have used so much, truly.

    More than the router held, and its books and ours have parted; it is spent all the same.
    """
    covered = min(used, holding)
    return Tally(tally.spent + used, tally.held - covered), holding - covered


def _most(budget: Budget, remains: int, routers: int) -> int:
    even = -(-remains // (2 * routers))
    least = max(1, budget.limit // LEAST_SHARE // routers)
    return max(even, min(remains, least))
