"""Answers that are given again to the same tenant asking the same, in bounded memory.

Each tenant has its own list, in order of use. Where room is needed, the tenant that holds the most
loses what it used longest ago: nobody's answers make way for those of a bigger tenant. (Max-min
fair eviction over LRU lists.) Only what was asked for is taken, so that nobody can put words into
another's mouth. Times are of any monotonic clock.
"""

import heapq
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from services.router.core.endings import Usage

# Beside its messages: key, lists and values around them, as measured. It bounds their number, too.
OVERHEAD_BYTES = 1024
MOST_EXPECTED = 10_000  # answers that runtimes are at work on; beyond it the oldest are forgotten
_SPARE_TIMERS = 1000


@dataclass(frozen=True, slots=True)
class Answer:
    """`messages` as the runtime wrote them, serialized: output text, never to be logged."""

    model_version: str
    usage: Usage
    messages: Sequence[bytes] = field(repr=False)

    @property
    def bytes(self) -> int:
        return OVERHEAD_BYTES + sum(len(each) for each in self.messages)


@dataclass(frozen=True, slots=True)
class Expected:
    tenant: str
    ttl_s: float
    until_s: float  # later than this, nothing will come


@dataclass(frozen=True, slots=True)
class _Entry:
    answer: Answer
    made_at_s: float
    expires_at_s: float


@dataclass(slots=True)
class _Share:
    """What one tenant holds."""

    entries: OrderedDict[str, _Entry] = field(default_factory=OrderedDict)  # used longest ago first
    bytes: int = 0


class ResponseCache:
    """Keys are of one tenant each: the digest that makes them is keyed by the tenant."""

    def __init__(self, *, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._shares: dict[str, _Share] = {}
        self._expected: OrderedDict[str, Expected] = OrderedDict()  # longest ago first
        self._timers: list[tuple[float, str, str]] = []  # a heap; may name entries that are gone
        self.outcomes: Counter[str] = Counter()  # of those who asked, since the start
        self.bytes = 0
        self.entries = 0

    def expect(self, key: str, expected: Expected) -> None:
        """A runtime was told to hand over its answer; without it, `keep` takes none."""
        self._expected[key] = expected
        if len(self._expected) > MOST_EXPECTED:
            self._expected.popitem(last=False)

    def keep(self, key: str, answer: Answer, now_s: float) -> bool:
        """False: nobody expects it, or it is larger than all there is room for."""
        expected = self._expected.pop(key, None)
        if expected is None or now_s > expected.until_s or answer.bytes > self._most_bytes:
            return False
        self._drop(expected.tenant, key)
        while self.bytes + answer.bytes > self._most_bytes:
            self._make_room()
        self._add(expected.tenant, key, _Entry(answer, now_s, now_s + expected.ttl_s))
        return True

    def find(self, tenant: str, key: str, *, ttl_s: float, now_s: float) -> Answer | None:
        """`ttl_s`: as the policy says now, which may be shorter than when it was kept."""
        share = self._shares.get(tenant)
        entry = share.entries.get(key) if share else None
        if share is None or entry is None:
            return None
        if now_s >= min(entry.expires_at_s, entry.made_at_s + ttl_s):
            return None
        share.entries.move_to_end(key)
        return entry.answer

    def expire(self, now_s: float) -> None:
        """Forgets what is too old, and answers that never came."""
        while self._timers and self._timers[0][0] <= now_s:
            at_s, tenant, key = heapq.heappop(self._timers)
            share = self._shares.get(tenant)
            entry = share.entries.get(key) if share else None
            if entry is not None and entry.expires_at_s == at_s:  # else it was kept anew since
                self._drop(tenant, key)
        while self._expected and next(iter(self._expected.values())).until_s < now_s:
            self._expected.popitem(last=False)

    def retain(self, is_known: Callable[[str], bool]) -> None:
        """Forgets what belongs to tenants that are no more."""
        for tenant in [each for each in self._shares if not is_known(each)]:
            share = self._shares.pop(tenant)
            self.bytes -= share.bytes
            self.entries -= len(share.entries)
        gone = [key for key, each in self._expected.items() if not is_known(each.tenant)]
        for key in gone:
            del self._expected[key]

    def _add(self, tenant: str, key: str, entry: _Entry) -> None:
        share = self._shares.setdefault(tenant, _Share())
        share.entries[key] = entry
        share.bytes += entry.answer.bytes
        self.bytes += entry.answer.bytes
        self.entries += 1
        heapq.heappush(self._timers, (entry.expires_at_s, tenant, key))
        if len(self._timers) > 2 * self.entries + _SPARE_TIMERS:
            self._clear_timers()

    def _drop(self, tenant: str, key: str) -> None:
        share = self._shares.get(tenant)
        entry = share.entries.pop(key, None) if share else None
        if share is None or entry is None:
            return
        share.bytes -= entry.answer.bytes
        self.bytes -= entry.answer.bytes
        self.entries -= 1
        if not share.entries:
            del self._shares[tenant]

    def _make_room(self) -> None:
        """Equally big tenants: the first by name, so that it does not depend on who came when."""
        tenant = min(self._shares, key=lambda each: (-self._shares[each].bytes, each))
        self._drop(tenant, next(iter(self._shares[tenant].entries)))

    def _clear_timers(self) -> None:
        self._timers = [
            (entry.expires_at_s, tenant, key)
            for tenant, share in self._shares.items()
            for key, entry in share.entries.items()
        ]
        heapq.heapify(self._timers)
