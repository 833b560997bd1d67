"""Counts what was let go within the last minute, so that no minute has more than its limit.

An exact sliding log, not a token bucket: a bucket that begins full lets twice its limit through in
the first minute. What is charged in one tick is one entry, so memory is bounded by ticks and not by
the limit; an entry counts from its tick's end, so a charge counts for 60 s and up to one tick more.

What exceeds the limit, since it was known only afterwards (true usage above the estimate, other
routers' admissions), is a debt: it is charged as older entries leave, before anything new is let
go. So the limit holds in the long run, whatever is corrected.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

TICKS_PER_S = 16  # a power of two, so that ticks and seconds are exact floats of each other
SPAN_TICKS = 60 * TICKS_PER_S + 1


@dataclass(slots=True)
class Charge:
    tick: int
    amount: int


class SlidingMinute:
    """`limit` may be another one at each call; 0: none. Times are one monotonic clock's."""

    __slots__ = ("_charges", "debt", "total")

    def __init__(self) -> None:
        self._charges: deque[Charge] = deque()  # the oldest first
        self.total = 0  # of the last minute
        self.debt = 0

    def fits(self, amount: int, limit: int, now_s: float) -> bool:
        if not limit:
            return True
        self._advance(limit, now_s)  # a debt leaves no room
        return self.total + amount <= limit

    def add(self, amount: int, limit: int, now_s: float) -> Charge:
        """What fits; the charge is where a part of it may be given back."""
        tick = self._advance(limit, now_s)
        return self._charged(amount, tick)

    def owe(self, amount: int, limit: int, now_s: float) -> None:
        """What was used already, whether it fits or not."""
        tick = self._advance(limit, now_s)
        self.debt += amount
        self._pay(limit, tick)

    def give_back(self, amount: int, limit: int, now_s: float, *, of: Charge | None = None) -> None:
        """What was charged and not used. `of` None: nobody knows when it was charged, so it is
        taken from the oldest, which errs on the strict side."""
        tick = self._advance(limit, now_s)
        if of is not None:
            taken = min(amount, of.amount)
            self._take(of, taken)
            if of.tick <= tick - SPAN_TICKS:
                return  # it has left the minute, and its rest with it
            amount -= taken
        for each in self._charges:
            if not amount:
                break
            taken = min(amount, each.amount)
            self._take(each, taken)
            amount -= taken
        self.debt -= min(amount, self.debt)
        self._pay(limit, tick)

    def wait_s(self, amount: int, limit: int, now_s: float) -> float:
        """Until it fits, if nothing else comes; to the next millisecond. At most `limit` may be
        asked for."""
        if self.fits(amount, limit, now_s):
            return 0.0
        missing = self.total + self.debt + amount - limit
        rounds = (missing - 1) // self.total  # a debt may take the place of all that leaves
        missing -= rounds * self.total
        for each in self._charges:
            missing -= each.amount
            if missing <= 0:
                until_s = (each.tick + (rounds + 1) * SPAN_TICKS) / TICKS_PER_S
                return math.ceil((until_s - now_s) * 1000) / 1000
        raise AssertionError("what is missing is at most what was charged")

    def recent(self, slices_s: Sequence[float], now_s: float) -> list[int]:
        """What was charged, by age: younger than the first end, than the second, and so on."""
        found, at = [0] * len(slices_s), 0
        now = int(now_s * TICKS_PER_S)
        for each in reversed(self._charges):
            age_s = (now - each.tick) / TICKS_PER_S
            while at < len(slices_s) - 1 and age_s >= slices_s[at]:
                at += 1
            found[at] += each.amount
        return found

    def insert(self, amount: int, age_s: float, now_s: float) -> None:
        """What was charged so long ago, as somebody else knows."""
        tick = int((now_s - age_s) * TICKS_PER_S)
        if tick > int(now_s * TICKS_PER_S) - SPAN_TICKS:
            self._charges.append(Charge(tick, amount))
            self._charges = deque(sorted(self._charges, key=lambda each: each.tick))
            self.total += amount

    def _advance(self, limit: int, now_s: float) -> int:
        """Lets go of what is older than a minute; debts take its place at the same time. The tick
        that it is."""
        charges, now = self._charges, int(now_s * TICKS_PER_S)
        while charges and charges[0].tick <= now - SPAN_TICKS:
            over = charges.popleft()
            self.total -= over.amount
            over.amount = 0
            if self.debt:
                self._pay(limit, over.tick + SPAN_TICKS)
        if self.debt:
            self._pay(limit, now)  # the limit may be higher by now
        return now

    def _pay(self, limit: int, tick: int) -> None:
        paid = max(0, min(self.debt, limit - self.total)) if limit else self.debt
        if paid:
            self.debt -= paid
            self._charged(paid, tick)

    def _charged(self, amount: int, tick: int) -> Charge:
        self.total += amount
        if self._charges and (last := self._charges[-1]).tick == tick:
            last.amount += amount
            return last
        charge = Charge(tick, amount)
        self._charges.append(charge)
        return charge

    def _take(self, charge: Charge, amount: int) -> None:
        charge.amount -= amount
        self.total -= amount
