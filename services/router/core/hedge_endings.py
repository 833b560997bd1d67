"""Reads a hedge out of how its request ended: was there one, who won, what is learnt from it."""

from collections.abc import Sequence
from dataclasses import replace

from services.router.core.endings import Code, Ended
from services.router.core.hedging import HedgePlan

# Envoy counts a delay from the beginning of its event loop's turn, which may be long on a busy
# machine: a hedge is then early. A failure so shortly before one would be taken for it.
_EARLIEST = 0.8  # of the delay
_GAVE_UP = {Code.CANCELLED, Code.DEADLINE_EXCEEDED}


def resolved(ended: Ended, plan: HedgePlan, order: Sequence[str], *, queue_wait_s: float) -> Ended:
    """With what became of the hedge.

    A second attempt may be a retry, which is sent as soon as the first has failed. The first one
    answers only if the second was a hedge, and does not say which it is. Envoy names the endpoint
    of the attempt that it sent last, whoever answered.
    """
    if ended.attempts < 2:
        return ended
    answered = bool(ended.engine or ended.first_token_s is not None)
    if answered and ended.echoed_attempt is None:
        return replace(ended, hedged=True, answered_attempt=1, endpoint=order[0])
    sent_s = (ended.sent_s or 0.0) - ended.read_s - queue_wait_s
    return replace(
        ended, hedged=sent_s >= _EARLIEST * plan.delay_s, answered_attempt=ended.echoed_attempt or 0
    )


def took_s(ended: Ended, plan: HedgePlan | None) -> float | None:
    """How long a runtime took to a first token, at least; None: this request doesn't tell.

    Of a hedged one, how long both took; of one that was given up late, how long it waited.
    """
    if ended.sent_s is None or (ended.attempts != 1 and not ended.hedged):
        return None
    head_start_s = plan.delay_s if plan is not None and ended.hedge_won else 0.0
    if ended.first_token_s is not None:
        return head_start_s + max(0.0, ended.first_token_s - ended.sent_s)
    waited_s = head_start_s + ended.duration_s - ended.sent_s
    is_late = plan is not None and waited_s > plan.delay_s and ended.grpc_code in _GAVE_UP
    return waited_s if is_late else None
