"""What a candidate policy would decide otherwise than the one in force; it decides nothing.

Judged is what the request alone decides: who asks, model, class, output and context. Not rates,
budgets, waits, endpoints and ladders.
"""

from collections import Counter
from dataclasses import dataclass

from services.router.core.admission import forbidden
from services.router.core.demands import Demand
from services.router.core.tenants import Caller, PolicyView, Tenants
from services.router.core.verdicts import Reason

MOST_APART = 900  # differences of tenants that are told apart; with all others' at most 1,000
MOST_EXAMPLES = 5

# What was refused for one of these says nothing about the policy, or came before it was asked.
_NO_POLICY = frozenset({Reason.CERTIFICATE_REVOKED, Reason.POLICY_STALE})
_BEFORE_ADMISSION = frozenset(
    {Reason.FIELD_INVALID, Reason.BODY_INVALID, Reason.MODEL_NOT_FOUND, Reason.DEADLINE}
)
_JUDGED = frozenset(
    {
        *(Reason.UNKNOWN_IDENTITY, Reason.MODEL_NOT_ALLOWED, Reason.WORKLOAD_CLASS_NOT_ALLOWED),
        *(Reason.OUTPUT_LIMIT, Reason.CONTEXT_LIMIT),
    }
)


@dataclass(frozen=True, slots=True)
class Kind:
    live: Reason | None  # what came of it; None: it was admitted
    shadow: Reason | None
    tenant: str  # by the policy in force, else by the candidate; empty: nobody's, or any


@dataclass(frozen=True, slots=True)
class Judgement:
    """How a request was decided."""

    request_id: str
    refusal: Reason | None  # None: it was admitted
    tenant: str  # empty: nobody's
    demand: Demand | None  # None: nothing was asked of a runtime, or it could not be read


class Shadow:
    """The candidate, and what was counted since it is this one."""

    def __init__(self, *, stale_after_s: float = 300.0) -> None:
        self._stale_after_s = stale_after_s
        self._view: PolicyView | None = None  # None: there is none
        self._begin()

    @property
    def version(self) -> str:
        """Empty: there is none."""
        return self._view.version if self._view else ""

    def candidate(self, now_s: float) -> Tenants | None:
        """None, too, when policy has been silent for too long."""
        return self._view.current(now_s) if self._view else None

    def replaced(self, tenants: Tenants, now_s: float) -> None:
        if self._view is None or tenants.version != self._view.version:
            self._view = PolicyView(stale_after_s=self._stale_after_s)
            self._begin()
        self._view.replaced(tenants, now_s)

    def confirmed(self, now_s: float) -> None:
        """Policy lives, and nothing has changed."""
        if self._view is not None:
            self._view.confirmed(now_s)

    def cleared(self) -> None:
        self._view = None
        self._begin()

    def compare(self, judgement: Judgement, caller: Caller | None) -> None:
        """`caller`: who asks, by the candidate."""
        self.judged += 1
        said = _said(judgement, caller)
        if said is not judgement.refusal:
            tenant = judgement.tenant or (caller.tenant.id if caller else "")
            self._note(Kind(judgement.refusal, said, tenant), judgement.request_id)

    def _begin(self) -> None:
        self.judged = 0
        self.failed = 0  # requests that could not be judged: a bug of ours
        self.differences: Counter[Kind] = Counter()
        self.examples: dict[Kind, list[str]] = {}

    def _note(self, kind: Kind, request_id: str) -> None:
        if kind not in self.differences and len(self.differences) >= MOST_APART:
            kind = Kind(kind.live, kind.shadow, "")
        self.differences[kind] += 1
        examples = self.examples.setdefault(kind, [])
        if len(examples) < MOST_EXAMPLES:
            examples.append(request_id)


def _said(judgement: Judgement, caller: Caller | None) -> Reason | None:
    """What would have come of it: what did, where the policy has no say in that."""
    was, demand = judgement.refusal, judgement.demand
    if was in _NO_POLICY:
        return was
    if caller is None:
        return Reason.UNKNOWN_IDENTITY
    if demand is None or was in _BEFORE_ADMISSION:
        return None if was is Reason.UNKNOWN_IDENTITY else was
    refused = forbidden(demand, caller.tenant)
    if refused is not None:
        return refused.reason
    return None if was in _JUDGED else was
