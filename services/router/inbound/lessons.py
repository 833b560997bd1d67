"""What the router learns from how requests ended: circuits, outliers, hedges and first tokens."""

import asyncio
from dataclasses import dataclass

from services.router.core.circuits import Circuits, outcomes
from services.router.core.endings import Ended
from services.router.core.experience import Experience
from services.router.core.hedge_endings import took_s
from services.router.core.hedging import Hedging
from services.router.core.outliers import Outliers, answer, pool
from services.router.core.requests import Decision


@dataclass(frozen=True, slots=True)
class Lessons:
    circuits: Circuits
    outliers: Outliers
    hedging: Hedging
    experience: Experience

    def arm_sent(self, request_id: str) -> None:
        """A second arm of this request is under way."""
        self.hedging.budget.spend(request_id, asyncio.get_running_loop().time())

    def learn(self, decision: Decision, end: Ended, *, is_paid: bool) -> None:
        """`is_paid`: its second arm was told of before its end."""
        now_s = asyncio.get_running_loop().time()
        self._settle_hedge(decision, end, now_s, is_paid=is_paid)
        self._judge(decision, end, now_s)
        self.experience.learn(decision, end)
        took = took_s(end, decision.plan)
        if took is not None and decision.output_tokens:
            self.hedging.first_tokens.learn(decision.answering, _uncached(decision), took, now_s)

    def _settle_hedge(self, decision: Decision, end: Ended, now_s: float, *, is_paid: bool) -> None:
        if decision.plan is None or is_paid:
            return
        if end.attempts > 1:  # the word on its arm was lost, or comes later
            self.hedging.budget.spend(end.request_id, now_s)
        else:
            self.hedging.budget.release(end.request_id)

    def _judge(self, decision: Decision, end: Ended, now_s: float) -> None:
        # Not Envoy's own time of its beginning: a wall clock jumps. This is 100 ms late at most.
        began_s, order = now_s - end.duration_s, decision.order
        for outcome in outcomes(order, end):
            self.circuits.learn(outcome, began_s=began_s, now_s=now_s)
        said = answer(order, end, queue_wait_s=decision.queue_wait_s or 0.0)
        if said is not None:
            able = pool(decision.candidates)
            self.outliers.learn(said, pool=able, began_s=began_s, now_s=now_s)


def _uncached(decision: Decision) -> int:
    """As a request that comes will be known: by what is expected of the cache, not by its truth."""
    return max(0, decision.prompt_tokens - decision.expected_cached_tokens)
