"""A reserve of slots for tenants that have less under way than their share: they need not wait.

Fairness orders those who wait; a tenant that sends little would still wait for the end of another's
answer each time. So whoever has its share under way leaves a few slots free (trunk reservation:
Key, Optimal control and trunk reservation in loss networks, 1990; Bean, Gibbens and Zachary, 1995),
and batches always do. Who takes of the reserve stays near the others in service: it may not be
ahead of them by more than what AHEAD of its share of the slots take.
"""

from services.router.core.bands import Band
from services.router.core.fairness import Turns
from services.router.core.queue import Waiting

AHEAD = 0.5


class Reserve:
    """Who may take of it, for one model."""

    def __init__(self) -> None:
        self._running: dict[str, int] = {}  # interactive requests under way, by tenant
        self._weights: dict[str, int] = {}  # of these tenants
        self._weight = 0
        self._waiting: dict[str, Waiting] = {}  # who found it empty, in the order they came

    def is_for(self, waiting: Waiting, turns: Turns, cost: float, *, slots: float) -> bool:
        """`slots`: of all endpoints, and this router's part of them where there are several."""
        if waiting.band is not Band.INTERACTIVE:
            return False
        ahead = turns.counter(waiting.tenant) - turns.level()
        share = self._share(waiting) * slots
        has_less = self._running.get(waiting.tenant, 0) < share
        return has_less and ahead * waiting.weight <= AHEAD * share * cost

    def _share(self, waiting: Waiting) -> float:
        """Half of all, where it is alone: the other half's reserve is for who may come."""
        others = self._weight - self._weights.get(waiting.tenant, 0)
        return waiting.weight / (waiting.weight + max(others, waiting.weight))

    def found_empty(self, waiting: Waiting) -> None:
        self._waiting[waiting.request_id] = waiting

    def left(self, request_id: str) -> None:
        """It waits no more, or not for the reserve."""
        self._waiting.pop(request_id, None)

    def first(self) -> Waiting | None:
        return next(iter(self._waiting.values()), None)

    def began(self, waiting: Waiting) -> None:
        if waiting.band is Band.INTERACTIVE:
            tenant = waiting.tenant
            self._running[tenant] = self._running.get(tenant, 0) + 1
            self._weight += waiting.weight - self._weights.get(tenant, 0)
            self._weights[tenant] = waiting.weight

    def ended(self, waiting: Waiting) -> None:
        if waiting.band is Band.INTERACTIVE:
            tenant = waiting.tenant
            self._running[tenant] -= 1
            if not self._running[tenant]:
                del self._running[tenant]
                self._weight -= self._weights.pop(tenant)
