"""Who is refused instead of waiting: where the queue is full, and where it would wait in vain.

How many may wait is bounded, and for how long: a tenant's part of the queue is never more than
what is left for the others (dynamic thresholds: Choudhury and Hahne, 1998), so the flood of one
fills half of it at most.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from services.router.core.bands import Band
from services.router.core.queue import Waiting
from services.router.core.verdicts import Reason, Refused

_COME_BACK_S = 1.0  # where nobody can say when
_COME_BACK_MOST_S = 60.0
# A wait may be so many times longer than predicted before somebody is refused late and not at once.
# Of 1.2 to 3, this gave the most goodput at 1.2 times saturation, and 1 % of refusals were late.
_CARE = 3.0


@dataclass(frozen=True, slots=True)
class QueueLimits:
    total: int = 2000
    of_a_tenant: int = 500
    longest_s: Mapping[Band, float] = field(
        default_factory=lambda: {Band.INTERACTIVE: 30.0, Band.BATCH: 300.0}
    )
    batch_share: float = 0.1

    def no_place(
        self, tenant: str, *, total: int, theirs: int, predicted_s: float
    ) -> Refused | None:
        """`total` requests wait, `theirs` of them the tenant's."""
        if total >= self.total:
            why, message = Reason.QUEUE_FULL, f"{total} requests wait already"
        elif theirs >= min(self.of_a_tenant, self.total - total):
            why = Reason.TENANT_QUEUE_FULL
            message = f"{theirs} requests of tenant {tenant} wait already"
        else:
            return None
        return Refused(why, message, retry_after_s=_back_s(predicted_s))


def in_vain(
    waiting: Waiting, *, predicted_s: float, reading_s: float, writing_s: float
) -> Refused | None:
    """All three as predicted: of the queue, the prompt and the answer."""
    if waiting.since_s + _CARE * predicted_s + reading_s + writing_s < waiting.deadline_s:
        return None
    what = f"{predicted_s:.1f} s of waiting, {reading_s:.1f} s for the prompt"
    why = f"it would take some {what} and {writing_s:.1f} s for the answer"
    return _unreachable(why, predicted_s)


def too_late(waiting: Waiting, now_s: float) -> Refused:
    """It has waited too long."""
    waited_s = now_s - waiting.since_s
    if now_s < waiting.until_s:
        return _unreachable(f"it has waited {waited_s:.1f} s", 0.0)
    return Refused(
        Reason.QUEUE_TIMEOUT,
        f"no runtime had room for it within {waited_s:.0f} s",
        retry_after_s=_COME_BACK_S,
    )


def _unreachable(why: str, predicted_s: float) -> Refused:
    return Refused(
        Reason.DEADLINE_UNREACHABLE,
        f"the deadline can't be met: {why}",
        retry_after_s=_back_s(predicted_s),
    )


def _back_s(predicted_s: float) -> float:
    return min(max(predicted_s, _COME_BACK_S), _COME_BACK_MOST_S)
