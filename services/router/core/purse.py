"""What this router may spend, and what it has set aside: slices of budgets, without a call.

A request sets aside, out of each account that it counts against, the most that it may cost, for
each attempt that may run; none is let go for which a hard account holds too little. An attempt's
part is there again, less what it used, once policy has told of its settlement, or once it is sure
that it never began: so what is there and what is aside are together what the ledger has as held
(docs/budgets.md), whatever is late or lost.
"""

import heapq
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from services.router.core.budgets import Account, Charge
from services.router.core.value import value

AHEAD_S = 1.0  # of spending as it was lately: so much is asked for, when half of it is left
CLOCKS_DIFFER_S = 5.0  # a runtime's from Envoy's, at most
DRY_S = 0.5  # how long policy's word that nothing is left is believed
_FADES_IN_S = 5.0  # to half
_QUIET_AFTER_S = 10.0  # who has not spent for so long gives all back
_KEPT_S = 3 * AHEAD_S  # of spending: more than that goes back
_KEPT_SCARCE_S = 0.25  # the same while others look for it
_TAKEN_WITHIN_S = 1.0  # by whom it was asked for: so long, what was granted stays


@value
class Want:
    account: Account
    units: int


@value
class Batch:
    """What to say to policy at once."""

    wants: Sequence[Want] = ()
    returns: Sequence[Want] = ()

    def __bool__(self) -> bool:
        return bool(self.wants or self.returns)


@value
class Granted:
    account: Account
    units: int
    scarce: bool = False
    low: bool = False


@dataclass(slots=True)
class _Slice:
    there: int = 0  # below 0: a soft one, or an attempt that used more than was set aside
    aside: int = 0
    per_s: float = 0.0  # set aside per second, lately
    at_s: float = 0.0
    granted_at_s: float = -math.inf
    short: int = 0  # the most that a request lacked since policy was asked
    dry_until_s: float = 0.0
    scarce: bool = False
    low: bool = False


@dataclass(slots=True)
class _Aside:
    number: int
    charges: Sequence[Charge]
    open: set[int] = field(default_factory=set)  # attempts of which nobody knows the end yet


class Purse:
    """`now_s` is of any monotonic clock, `unix_s` of the wall's."""

    def __init__(self) -> None:
        self._slices: dict[Account, _Slice] = {}
        self._by_request: dict[str, _Aside] = {}
        self._by_number: dict[int, _Aside] = {}
        self._over: list[tuple[float, int]] = []  # a heap: when a request ended, and its number
        self._numbers = 0
        self._touched: set[Account] = set()  # since policy was asked last

    def there(self, account: Account) -> int:
        found = self._slices.get(account)
        return found.there if found else 0

    def held(self, account: Account) -> int:
        """As the ledger must have it."""
        found = self._slices.get(account)
        return found.there + found.aside if found else 0

    def accounts(self) -> Iterable[Account]:
        return self._slices

    def under_way(self) -> int:
        """Reservations of which not all is known."""
        return len(self._by_number)

    def is_dry(self, account: Account, now_s: float) -> bool:
        """Policy has just said that nothing is left of it."""
        found = self._slices.get(account)
        return found is not None and now_s < found.dry_until_s

    def is_short(self, account: Account) -> bool:
        """It was too little for somebody since policy was asked."""
        found = self._slices.get(account)
        return found is not None and found.there < found.short

    def is_low(self, account: Account) -> bool:
        found = self._slices.get(account)
        return found is not None and found.low

    def set_aside(
        self, request_id: str, charges: Sequence[Charge], *, attempts: int, now_s: float
    ) -> int | Account:
        """The reservation's number; or the account that holds too little, and nothing is aside."""
        for each in charges:
            units, found = each.reserved * attempts, self._slice(each)
            if each.hard and found.there < units:
                found.short = max(found.short, units)
                self._touched.add(each.account)
                return each.account
        for each in charges:
            self._take(each, attempts, now_s)
        self._numbers += 1
        aside = _Aside(self._numbers, charges, set(range(1, attempts + 1)))
        self._by_request[request_id] = self._by_number[aside.number] = aside
        return aside.number

    def ended(self, request_id: str, *, sent: int | None, unix_s: float) -> None:
        """Its request has, at that time, after so many attempts; None: nobody knows how many."""
        aside = self._by_request.pop(request_id, None)
        if aside is None:
            return
        if sent is not None:
            for attempt in [each for each in aside.open if each > sent]:
                self._close(aside, attempt, {})
        if aside.open:
            heapq.heappush(self._over, (unix_s, aside.number))

    def settled(self, number: int, attempt: int, used: Mapping[Account, int]) -> None:
        """Policy has booked what an attempt used; it is told of each once."""
        aside = self._by_number.get(number)
        if aside is not None and attempt in aside.open:
            self._close(aside, attempt, used)
            return
        for account, units in used.items():  # it came after all
            found = self._slices.setdefault(account, _Slice())
            found.there -= units
            self._touched.add(account)

    def settled_until(self, unix_s: float) -> None:
        """What ended before, and was not told of as settled, never began."""
        while self._over and self._over[0][0] + CLOCKS_DIFFER_S <= unix_s:
            aside = self._by_number.get(heapq.heappop(self._over)[1])
            for attempt in tuple(aside.open) if aside else ():
                assert aside is not None, "it has attempts"
                self._close(aside, attempt, {})

    def granted(self, granted: Granted, now_s: float) -> None:
        """Policy's answer to what was wanted of it."""
        found = self._slices.setdefault(granted.account, _Slice())
        found.there += granted.units
        found.granted_at_s = now_s
        found.scarce, found.low = granted.scarce, granted.low
        if not granted.units:
            found.dry_until_s, found.short = now_s + DRY_S, 0
        self._touched.add(granted.account)

    def batch(self, now_s: float) -> Batch:
        """For policy, of the accounts that something happened to. What it returns is gone."""
        touched, self._touched = self._touched, set()
        return Batch(tuple(self._wants(touched, now_s)), tuple(self._returns(touched, now_s)))

    def sweep(self, now_s: float) -> None:
        """Every few seconds: forgets what nobody uses, and has all others looked at."""
        for account in [each for each, found in self._slices.items() if _is_idle(found, now_s)]:
            del self._slices[account]
        self._touched.update(self._slices)

    def forget(self) -> None:
        """Everything: the ledger has taken it back."""
        self._slices.clear()
        self._by_request.clear()
        self._by_number.clear()
        self._over.clear()
        self._touched.clear()

    def all_idle(self) -> Batch:
        """For policy, of a router that ends. What is aside is settled without it."""
        idle = [Want(each, found.there) for each, found in self._slices.items() if found.there > 0]
        for each in idle:
            self._slices[each.account].there = 0
        return Batch(returns=idle)

    def _wants(self, accounts: Iterable[Account], now_s: float) -> Iterator[Want]:
        for account in accounts:
            found = self._slices.get(account)
            if found is None or now_s < found.dry_until_s:
                continue
            if found.there >= found.short:
                found.short = 0
            ahead = int(_per_s(found, now_s) * AHEAD_S)
            if found.there < max(ahead // 2, found.short, 0):
                yield Want(account, max(ahead, found.short) - found.there)

    def _returns(self, accounts: Iterable[Account], now_s: float) -> Iterator[Want]:
        for account in accounts:
            found = self._slices.get(account)
            if found is None or found.there <= 0:
                continue
            if now_s < found.granted_at_s + _TAKEN_WITHIN_S:
                continue
            kept_s = _KEPT_SCARCE_S if found.scarce else _KEPT_S
            spare = found.there - max(int(_per_s(found, now_s) * kept_s), found.short)
            if spare > 0 and (found.scarce or 2 * spare >= found.there):
                found.there -= spare
                yield Want(account, spare)

    def _slice(self, charge: Charge) -> _Slice:
        return self._slices.setdefault(charge.account, _Slice())

    def _take(self, charge: Charge, attempts: int, now_s: float) -> None:
        found, units = self._slices[charge.account], charge.reserved * attempts
        found.per_s = _per_s(found, now_s) + units / _FADES_IN_S
        found.at_s = now_s
        found.there -= units
        found.aside += units
        self._touched.add(charge.account)

    def _close(self, aside: _Aside, attempt: int, used: Mapping[Account, int]) -> None:
        aside.open.discard(attempt)
        for each in aside.charges:
            found = self._slices[each.account]
            found.aside -= each.reserved
            found.there += each.reserved - used.get(each.account, 0)
            self._touched.add(each.account)
        if not aside.open:
            del self._by_number[aside.number]


def _is_idle(found: _Slice, now_s: float) -> bool:
    """Also of a window that is over: nobody takes of it any more, so all of it goes back."""
    is_quiet = int(_per_s(found, now_s) * AHEAD_S) == 0 and now_s >= found.dry_until_s
    return is_quiet and found.there == found.aside == found.short == 0


def _per_s(found: _Slice, now_s: float) -> float:
    idle_s = max(0.0, now_s - found.at_s)
    if idle_s >= _QUIET_AFTER_S:
        return 0.0
    halvings = idle_s / _FADES_IN_S
    return found.per_s * math.pow(0.5, halvings)
