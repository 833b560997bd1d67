"""Hedging on the first token: whether Envoy may send a request a second time, and when.

Source: Dean and Barroso, The Tail at Scale (CACM 2013), hedged requests. Envoy races the two arms
on their response headers, which our runtimes send with the first token, and resets the loser.

The delay lies above what all but LATE_SHARE of the first tokens take, by LATE_TIMES: a request that
is only a little late gains nothing by beginning anew. So fewer than LATE_SHARE are hedged while
times are what they were, and a hedge never hides what the delay is made from (first_tokens.py).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from services.router.core.demands import WorkloadClass
from services.router.core.first_tokens import FirstTokens
from services.router.core.hedge_budget import HedgeBudget
from services.router.core.value import value

LATE_SHARE = 0.05
LATE_TIMES = 1.5
LEAST_DELAY_S = 0.02  # below it, the mesh's own jitter would be hedged
REPORTED_WITHIN_S = 0.25  # Envoy tells of an arm within 100 ms; a busy machine takes longer

# Batch has time. A hedge of a high-risk request stays inside the endpoints that it may use.
_HEDGED = {WorkloadClass.INTERACTIVE, WorkloadClass.HIGH_RISK}


class NotHedged(Enum):
    """Why; the values are stable."""

    OFF = "off"
    CLASS = "class"
    NO_OUTPUT = "no output"
    NO_SECOND_ENDPOINT = "no second endpoint"
    SATURATED = "saturated"
    FEW_SAMPLES = "few samples"
    DEADLINE = "deadline"
    BUDGET_SPENT = "budget spent"  # of hedges
    TENANT_BUDGET = "tenant budget"  # too little of it is left for two arms


@value
class HedgePlan:
    endpoint: str  # where the second arm goes
    delay_s: float  # from the first arm to the second


@dataclass(frozen=True, slots=True, kw_only=True)
class Hedgeable:
    """What a hedge is decided by, besides what is known of others."""

    model: str
    workload_class: WorkloadClass
    uncached_prompt_tokens: int
    output_tokens: int  # 0: it only counts
    endpoints: Sequence[str]  # to try, in order
    timeout_s: float


class Hedging:
    """Promises hedges out of a budget. Who hears of arms and first tokens tells its two parts."""

    def __init__(self, share: float) -> None:
        self.budget = HedgeBudget(share)
        self.first_tokens = FirstTokens()

    def decide(
        self, asked: Hedgeable, is_free: Callable[[str], bool], now_s: float
    ) -> HedgePlan | NotHedged:
        """`is_free`: whether an endpoint would begin a request at once."""
        ruled_out = self._ruled_out(asked)
        if ruled_out:
            return ruled_out
        endpoint = _second(asked.endpoints, is_free)
        if isinstance(endpoint, NotHedged):
            return endpoint
        delay_s = self.delay_s(asked, now_s)
        if delay_s is None:
            return NotHedged.FEW_SAMPLES
        if asked.timeout_s <= delay_s:
            return NotHedged.DEADLINE
        if not self.budget.allows(now_s):
            return NotHedged.BUDGET_SPENT
        return HedgePlan(endpoint, delay_s)

    def _ruled_out(self, asked: Hedgeable) -> NotHedged | None:
        if not self.budget.share:
            return NotHedged.OFF
        if not asked.output_tokens:
            return NotHedged.NO_OUTPUT
        return None if asked.workload_class in _HEDGED else NotHedged.CLASS

    def delay_s(self, asked: Hedgeable, now_s: float) -> float | None:
        late_s = self.first_tokens.quantile_s(
            asked.model, asked.uncached_prompt_tokens, share=1 - LATE_SHARE, now_s=now_s
        )
        if late_s is None:
            return None
        return math.ceil(1000 * max(LEAST_DELAY_S, LATE_TIMES * late_s)) / 1000  # Envoy's unit

    def let_go(self, request_id: str, plan: HedgePlan | None, now_s: float) -> None:
        """A request goes to a runtime."""
        self.budget.earn(now_s)
        if plan is not None:
            decided_at_s = now_s + plan.delay_s + REPORTED_WITHIN_S
            self.budget.promise(request_id, decided_at_s=decided_at_s)


def arranged(endpoints: Sequence[str], plan: HedgePlan | None) -> Sequence[str]:
    """In the order in which Envoy tries them: the second arm's is the second."""
    if plan is None or endpoints[1] == plan.endpoint:
        return endpoints
    rest = (each for each in endpoints[1:] if each != plan.endpoint)
    return (endpoints[0], plan.endpoint, *rest)


def _second(endpoints: Sequence[str], is_free: Callable[[str], bool]) -> str | NotHedged:
    """The best of the others that is free."""
    if len(endpoints) < 2:
        return NotHedged.NO_SECOND_ENDPOINT
    for endpoint in endpoints[1:]:
        if is_free(endpoint):
            return endpoint
    saturated = not is_free(endpoints[0])
    return NotHedged.SATURATED if saturated else NotHedged.NO_SECOND_ENDPOINT
