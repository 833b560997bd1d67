"""Fairness between tenants: of those who wait, whoever was served least for its weight is next.

Virtual token counters: Sheng et al., Fairness in Serving Large Language Models, arXiv 2401.00588,
algorithms 2 and 3. A tenant that comes back from idle is lifted to the level of those who waited
meanwhile, so idleness saves nothing up. The output is charged as predicted when a request is let go
and corrected when it is known, so two tenants that both wait differ in weighted service by at most
2 max(w_in L_in, w_out M), L_in and M being the longest prompt and the outputs under way.

Other routers in front of the same endpoints give service too, and tenants wait there. They count as
if they were here: their service is charged, and who waits there holds the level as others do.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from services.router.core.order import Order

INPUT_WEIGHT = 1.0  # the paper's: a written token takes a step, prompt tokens share one
OUTPUT_WEIGHT = 2.0
_LEARNED = 0.2  # how much the last output counts in the prediction of the next


def service(prompt_tokens: float, output_tokens: float) -> float:
    return INPUT_WEIGHT * prompt_tokens + OUTPUT_WEIGHT * output_tokens


@dataclass(slots=True)
class _Account:
    counter: float = 0.0
    served: float = 0.0  # by this router, not divided by the weight
    written: float | None = None  # output tokens of a request, on average; None: none has ended
    elsewhere: int = 0  # routers at which it waits


@dataclass(frozen=True, slots=True)
class Standing:
    """One tenant at this router."""

    served: float  # all that it was ever given, not divided by its weight
    waits: bool


class Turns:
    """The counters of all tenants in one queue, and whose turn it is. As many as there are tenants.

    A mark is a point in the history of `standings_since`.
    """

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}
        self._here = Order(self._counter_of)
        self._elsewhere = Order(self._counter_of)
        self._last = ""  # whom the service was last given to while nobody waited
        self._mark = 0
        self._changes: dict[str, int] = {}  # tenant to mark, the latest last

    def counter(self, tenant: str) -> float:
        """What it would begin to wait with."""
        account = self._accounts.get(tenant)
        if account is None:
            return self.level()
        return account.counter if self._waits(tenant) else max(account.counter, self.level())

    def level(self) -> float:
        """The least counter of those who wait; nobody waiting, that of the last one served."""
        firsts = [
            each for each in (self._here.first(), self._elsewhere.first()) if each is not None
        ]
        if firsts:
            return min(self._accounts[each].counter for each in firsts)
        account = self._accounts.get(self._last)
        return account.counter if account else 0.0

    def predicted_output(self, tenant: str, at_most: int) -> float:
        account = self._accounts.get(tenant)
        if account is None or account.written is None:
            return at_most
        return min(account.written, at_most)

    def usual_output(self, tenant: str, at_most: int) -> float:
        """Tokens. 0: nobody can say."""
        account = self._accounts.get(tenant)
        known = account is not None and account.written is not None
        return self.predicted_output(tenant, at_most) if known else 0.0

    def enter(self, tenant: str) -> None:
        """It begins to wait, or waits already."""
        if tenant not in self._here:
            self._lift(tenant)
            self._here.enter(tenant)
            self._changed(tenant)

    def leave(self, tenant: str) -> None:
        """Nothing of it waits here any more."""
        if tenant in self._here:
            self._here.leave(tenant)
            self._remember(tenant)
            self._changed(tenant)

    def enter_elsewhere(self, tenant: str) -> None:
        """It begins to wait at another router."""
        account = self._lift(tenant)
        account.elsewhere += 1
        if account.elsewhere == 1:
            self._elsewhere.enter(tenant)

    def leave_elsewhere(self, tenant: str) -> None:
        """It waits at one router less."""
        account = self._accounts[tenant]
        account.elsewhere -= 1
        if account.elsewhere == 0:
            self._elsewhere.leave(tenant)
            self._remember(tenant)

    def first(self) -> str | None:
        """Of those who wait here."""
        return self._here.first()

    def first_elsewhere(self) -> str | None:
        return self._elsewhere.first()

    @property
    def waits_elsewhere(self) -> bool:
        """Somebody does."""
        return bool(self._elsewhere)

    def charge(self, tenant: str, given: float, *, weight: float) -> None:
        """Service that this router gives it; negative: what was charged too much."""
        self._add(tenant, given, weight)
        self._accounts[tenant].served += given
        self._changed(tenant)

    def charge_elsewhere(self, tenant: str, given: float, *, weight: float) -> None:
        """Service that another router gave it, or took back."""
        self._add(tenant, given, weight)

    def wrote(self, tenant: str, output_tokens: int) -> None:
        """What a request's output was in the end."""
        account = self._account(tenant)
        before = output_tokens if account.written is None else account.written
        account.written = before + _LEARNED * (output_tokens - before)

    def standings_since(self, mark: int) -> tuple[int, Mapping[str, Standing]]:
        """The mark now, and how each tenant stands that changed since then, the latest first.

        Totals, so that one who missed a word of it misses nothing. 0 is the beginning.
        """
        changed = {}
        for tenant, at in reversed(self._changes.items()):
            if at <= mark:
                break
            changed[tenant] = Standing(self._accounts[tenant].served, tenant in self._here)
        return self._mark, changed

    def _counter_of(self, tenant: str) -> float:
        return self._accounts[tenant].counter

    def _account(self, tenant: str) -> _Account:
        account = self._accounts.get(tenant)
        if account is None:
            account = self._accounts[tenant] = _Account()
        return account

    def _waits(self, tenant: str) -> bool:
        return tenant in self._here or tenant in self._elsewhere

    def _lift(self, tenant: str) -> _Account:
        account = self._account(tenant)
        if not self._waits(tenant):
            account.counter = max(account.counter, self.level())
        return account

    def _add(self, tenant: str, given: float, weight: float) -> None:
        account = self._lift(tenant) if given > 0.0 else self._account(tenant)
        account.counter += given / weight
        if given > 0.0:
            self._remember(tenant)
            return
        for order in (self._here, self._elsewhere):
            if tenant in order:
                order.enter(tenant)

    def _remember(self, tenant: str) -> None:
        if not (self._here or self._elsewhere):
            self._last = tenant

    def _changed(self, tenant: str) -> None:
        self._mark += 1
        self._changes.pop(tenant, None)
        self._changes[tenant] = self._mark
