"""Tenants by their counters: who waits, and whose counter is the least.

A heap whose entries are put right when they come to its front: a counter that was raised is noticed
there, one that was lowered has to be told. Entering costs the logarithm of who waits.
"""

import heapq
from collections.abc import Callable

_SPARE = 64

_Entry = tuple[float, int, str]  # counter, when it was pushed, tenant


class Order:
    """`counter_of` a tenant that waits."""

    def __init__(self, counter_of: Callable[[str], float]) -> None:
        self._counter_of = counter_of
        self._entries: dict[str, _Entry] = {}  # of those who wait
        self._heap: list[_Entry] = []  # may hold entries that are none any more
        self._pushed = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, tenant: str) -> bool:
        return tenant in self._entries

    def enter(self, tenant: str) -> None:
        """It waits from now on, or its counter was lowered."""
        self._pushed += 1
        entry = self._entries[tenant] = (self._counter_of(tenant), self._pushed, tenant)
        heapq.heappush(self._heap, entry)
        if len(self._heap) > 2 * len(self._entries) + _SPARE:
            self._heap = list(self._entries.values())
            heapq.heapify(self._heap)

    def leave(self, tenant: str) -> None:
        del self._entries[tenant]

    def first(self) -> str | None:
        """Of equal ones, the one that has waited longest with that counter."""
        while self._heap:
            entry = self._heap[0]
            tenant = entry[2]
            if self._entries.get(tenant) is not entry:
                heapq.heappop(self._heap)
            elif self._counter_of(tenant) > entry[0]:
                heapq.heappop(self._heap)
                self.enter(tenant)
            else:
                return tenant
        return None
