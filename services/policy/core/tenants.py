"""What the policy says, as values: tenants, who they are, and what each may use."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class WorkloadClass(Enum):
    INTERACTIVE = "interactive"
    BATCH = "batch"
    HIGH_RISK = "high_risk"


@dataclass(frozen=True, slots=True)
class ApiKey:
    id: str  # a name for logs, not secret
    sha256: bytes  # 32 bytes
    workload: str  # what the key stands for, as the last segment of a SPIFFE ID does


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    id: str
    spiffe_ids: tuple[str, ...]  # the last segment of each may be "*"
    api_keys: tuple[ApiKey, ...]
    models: tuple[str, ...]  # ("*",) for all
    workload_classes: tuple[WorkloadClass, ...]  # at least one
    default_workload_class: WorkloadClass  # one of them
    max_context_tokens: int  # prompt and output together; 0: the model's own limit
    max_output_tokens: int  # of one request; 0: the model's own limit
    weight: int = 1  # share of the mesh beside other tenants that wait
    pool: str = ""  # only runtimes of this pool; empty: the shared one


class Trigger(Enum):
    """What makes a rung of the ladder be taken."""

    SATURATED = "saturated"
    DEADLINE_AT_RISK = "deadline_at_risk"
    MODEL_UNHEALTHY = "model_unhealthy"


class Step(Enum):
    """What a rung of the ladder does."""

    FALLBACK_MODEL = "fallback_model"
    SMALLER_OUTPUT = "smaller_output"
    SMALLER_CONTEXT = "smaller_context"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    when: Trigger
    step: Step
    model: str = ""  # of a fallback model
    tokens: int = 0  # of a smaller output or context


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassRules:
    """What a workload class gets, whoever asks."""

    workload_class: WorkloadClass
    ladder: tuple[Rung, ...] = ()  # what is made smaller or replaced, and when; in order
    resume: bool = False  # a stream that broke may be carried on
    cache_ttl_s: float = 0.0  # how long answers are kept; 0: not at all


@dataclass(frozen=True, slots=True)
class Policy:
    """Who is not among the tenants is denied."""

    version: str  # a digest of the file it was read from
    tenants: Sequence[Tenant]
    classes: Sequence[ClassRules] = ()  # each at most once; the others have the defaults
