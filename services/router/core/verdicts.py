"""What the router answers: a request may go, or it may not and why.

Reasons are stable: clients branch on them, docs/reasons.md lists them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from enum import Enum

from services.router.core.demands import WorkloadClass
from services.router.core.expectations import NO_PREFIX, Prefix
from services.router.core.picking import Candidate
from services.router.core.response_cache import Answer
from services.router.core.rungs import UNDEGRADED, Degraded
from services.router.core.value import value


class Reason(Enum):
    FIELD_INVALID = "FIELD_INVALID"
    BODY_INVALID = "BODY_INVALID"
    UNKNOWN_IDENTITY = "UNKNOWN_IDENTITY"
    KEY_EXPIRED = "KEY_EXPIRED"
    CERTIFICATE_REVOKED = "CERTIFICATE_REVOKED"
    MODEL_NOT_ALLOWED = "MODEL_NOT_ALLOWED"
    WORKLOAD_CLASS_NOT_ALLOWED = "WORKLOAD_CLASS_NOT_ALLOWED"
    RESUME_NOT_ALLOWED = "RESUME_NOT_ALLOWED"
    MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
    PROMPT_NOT_FOUND = "PROMPT_NOT_FOUND"
    OUTPUT_LIMIT = "OUTPUT_LIMIT"
    CONTEXT_LIMIT = "CONTEXT_LIMIT"
    NO_ENDPOINT = "NO_ENDPOINT"
    POLICY_STALE = "POLICY_STALE"
    DRAINING = "DRAINING"
    SHED = "SHED"
    DEADLINE = "DEADLINE"
    QUEUE_FULL = "QUEUE_FULL"
    TENANT_QUEUE_FULL = "TENANT_QUEUE_FULL"
    QUEUE_TIMEOUT = "QUEUE_TIMEOUT"
    DEADLINE_UNREACHABLE = "DEADLINE_UNREACHABLE"
    AUDIT_UNAVAILABLE = "AUDIT_UNAVAILABLE"
    REQUEST_RATE_LIMIT = "REQUEST_RATE_LIMIT"
    TOKEN_RATE_LIMIT = "TOKEN_RATE_LIMIT"  # noqa: S105 - of a language model
    CONCURRENCY_LIMIT = "CONCURRENCY_LIMIT"
    KV_LIMIT = "KV_LIMIT"
    BUDGET_EXHAUSTED = "BUDGET_EXHAUSTED"
    LEDGER_UNREACHABLE = "LEDGER_UNREACHABLE"
    MODEL_NOT_PRICED = "MODEL_NOT_PRICED"


@value
class Admitted:
    """It may go now."""

    workload_class: WorkloadClass
    candidates: Sequence[Candidate]  # best first, those left out last
    endpoints: Sequence[str]  # addresses to try, in order; at least one
    prompt_tokens: int  # estimated, unless the caller sent token ids
    output_tokens: int  # the most it may write, as far as the router can know
    timeout_s: float  # what is left of its deadline
    model: str = ""  # that answers; empty: the one that was asked for
    degraded: Degraded = UNDEGRADED
    others: Mapping[str, int] = dataclass_field(
        default_factory=dict
    )  # candidates not shown, by why
    prefix: Prefix = NO_PREFIX
    resumable: bool = False  # its stream may be carried on should it break
    exact: bool = False  # the prompt's tokens were counted, not estimated

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class Refused:
    """It may not go. `field` is what the caller should mend, `retry_after_s` when to come back."""

    reason: Reason
    message: str
    field: str | None = None
    retry_after_s: float | None = None
    candidates: Sequence[Candidate] = ()
    workload_class: WorkloadClass | None = None
    degraded: Degraded = UNDEGRADED
    others: Mapping[str, int] = dataclass_field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Hit:
    """The router itself gives an earlier answer again; no engine is asked."""

    workload_class: WorkloadClass
    answer: Answer
    timeout_s: float  # what is left of its deadline
    candidates: Sequence[Candidate] = ()  # nobody was looked at
    others: Mapping[str, int] = dataclass_field(default_factory=dict)
    degraded: Degraded = UNDEGRADED


Verdict = Admitted | Refused | Hit
