"""Fairness between tenants: of those who wait, whoever was served least for its weight is next.

Virtual token counters: Sheng et al., Fairness in Serving Large Language Models, arXiv 2401.00588,
algorithms 2 and 3. A tenant that comes back from idle is lifted to the level of those who waited
meanwhile, so idleness saves nothing up. The output is charged as predicted when a request is let go
and corrected when it is known, so two tenants that both wait differ in weighted service by at most
2 max(w_in L_in, w_out M), L_in and M being the longest prompt and the outputs under way.
"""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass

INPUT_WEIGHT = 1.0  # the paper's: a written token takes a step, prompt tokens share one
OUTPUT_WEIGHT = 2.0
_LEARNED = 0.2  # how much the last output counts in the prediction of the next
_SPARE_TURNS = 64


def service(prompt_tokens: float, output_tokens: float) -> float:
    return INPUT_WEIGHT * prompt_tokens + OUTPUT_WEIGHT * output_tokens


@dataclass(slots=True)
class _Account:
    counter: float = 0.0
    served: float = 0.0  # by this router, not divided by the weight
    written: float | None = None  # output tokens of a request, on average; None: none has ended
    turn: tuple[float, int, str] | None = None  # its place in the heap; None: it does not wait


class Turns:
    """The counters of all tenants in one queue, and whose turn it is. As many as there are tenants.

    A mark is a point in the history of `served_since`.
    """

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}
        self._heap: list[tuple[float, int, str]] = []  # may hold turns that are none any more
        self._waiting = 0
        self._last = ""  # whom the service was last given to while nobody waited
        self._pushed = 0
        self._mark = 0
        self._changes: dict[str, int] = {}  # tenant to mark, the latest last

    def counter(self, tenant: str) -> float:
        """What it would begin to wait with."""
        account = self._accounts.get(tenant)
        if account is None:
            return self.level()
        return account.counter if account.turn else max(account.counter, self.level())

    def level(self) -> float:
        """The least counter of those who wait; nobody waiting, that of the last one served."""
        first = self.first()
        account = self._accounts.get(self._last if first is None else first)
        return account.counter if account else 0.0

    def predicted_output(self, tenant: str, at_most: int) -> float:
        account = self._accounts.get(tenant)
        if account is None or account.written is None:
            return at_most
        return min(account.written, at_most)

    def enter(self, tenant: str) -> None:
        """It begins to wait, or waits already."""
        account = self._account(tenant)
        if account.turn is None:
            account.counter = max(account.counter, self.level())
            self._waiting += 1
            self._push(tenant, account)

    def leave(self, tenant: str) -> None:
        """Nothing of it waits any more."""
        account = self._accounts[tenant]
        if account.turn is not None:
            account.turn = None
            self._waiting -= 1
            self._last = tenant if self._waiting == 0 else self._last

    def first(self) -> str | None:
        heap = self._heap
        while heap:
            turn = heap[0]
            account = self._accounts[turn[2]]
            if account.turn is not turn:
                heapq.heappop(heap)
            elif account.counter > turn[0]:
                heapq.heappop(heap)
                self._push(turn[2], account)
            else:
                return turn[2]
        return None

    def charge(self, tenant: str, given: float, *, weight: float) -> None:
        """Service that this router gives it; negative: what was charged too much."""
        account = self._account(tenant)
        if given > 0.0 and account.turn is None:
            account.counter = max(account.counter, self.level())
        account.served += given
        self._mark += 1
        self._changes.pop(tenant, None)
        self._changes[tenant] = self._mark
        self._add(tenant, account, given / weight)

    def charge_elsewhere(self, tenant: str, given: float, *, weight: float) -> None:
        """Service that another router gave it, or took back."""
        account = self._account(tenant)
        if given > 0.0 and account.turn is None:
            account.counter = max(account.counter, self.level())
        self._add(tenant, account, given / weight)

    def wrote(self, tenant: str, output_tokens: int) -> None:
        """What a request's output was in the end."""
        account = self._account(tenant)
        before = output_tokens if account.written is None else account.written
        account.written = before + _LEARNED * (output_tokens - before)

    def served_since(self, mark: int) -> tuple[int, Mapping[str, float]]:
        """The mark now, and all that this router ever gave to each tenant that changed since then.

        Totals, so that one who missed a word of it misses nothing. 0 is the beginning.
        """
        changed = {}
        for tenant, at in reversed(self._changes.items()):
            if at <= mark:
                break
            changed[tenant] = self._accounts[tenant].served
        return self._mark, changed

    def _account(self, tenant: str) -> _Account:
        account = self._accounts.get(tenant)
        if account is None:
            account = self._accounts[tenant] = _Account()
        return account

    def _add(self, tenant: str, account: _Account, given: float) -> None:
        account.counter += given
        if account.turn is None:
            self._last = tenant if given > 0.0 and self._waiting == 0 else self._last
        elif given < 0.0:
            # A raised counter is noticed at the front of the heap, a lowered one would not be.
            self._push(tenant, account)

    def _push(self, tenant: str, account: _Account) -> None:
        self._pushed += 1
        account.turn = (account.counter, self._pushed, tenant)
        heapq.heappush(self._heap, account.turn)
        if len(self._heap) > 2 * self._waiting + _SPARE_TURNS:
            self._heap = [turn for turn in self._heap if self._accounts[turn[2]].turn is turn]
            heapq.heapify(self._heap)
