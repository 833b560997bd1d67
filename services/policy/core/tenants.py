"""What the policy says, as values: tenants, who they are, and what each may use."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from services.policy.core.nodes import Problem


class WorkloadClass(Enum):
    INTERACTIVE = "interactive"
    BATCH = "batch"
    HIGH_RISK = "high_risk"


@dataclass(frozen=True, slots=True)
class ApiKey:
    id: str  # a name for logs, not secret
    sha256: bytes  # 32 bytes
    workload: str  # what the key stands for, as the last segment of a SPIFFE ID does


class Window(Enum):
    """What a budget begins anew with, in UTC. TOTAL never does."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    MONTH = "month"
    TOTAL = "total"


class Unit(Enum):
    """What a budget counts, in whole units."""

    TOKENS = "tokens"  # prompt and output together
    MONEY = "money"  # billionths of the price list's currency


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    id: str  # unique in its tenant
    unit: Unit
    window: Window
    limit: int  # in its unit, at least 1
    hard: bool = True  # never overspent; a soft one warns and degrades
    workload: str = ""  # that alone counts; empty: all of the tenant's
    low_share: float = 0.1  # what is left of it when it is called low


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of one tenant over all routers. 0: none."""

    requests_per_minute: int = 0
    tokens_per_minute: int = 0  # prompt and output
    concurrent_requests: int = 0  # admitted and not ended
    kv_share: float = 0.0  # of the KV blocks of the pool that serves it, held at once


NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Billionths of the currency for one token of a model."""

    model: str  # "*": every model that has no price of its own
    prompt: int
    cached_prompt: int  # for those of the prompt that were found in the prefix cache
    output: int


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
    limits: Limits = NO_LIMITS
    budgets: tuple[Budget, ...] = ()


class Trigger(Enum):
    """What makes a rung of the ladder be taken."""

    SATURATED = "saturated"
    DEADLINE_AT_RISK = "deadline_at_risk"
    MODEL_UNHEALTHY = "model_unhealthy"
    BUDGET_LOW = "budget_low"


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
    pool: str = ""  # of tenants without one of their own; empty: the shared one


@dataclass(frozen=True, slots=True)
class Policy:
    """Who is not among the tenants is denied."""

    version: str  # a digest of the file it was read from
    tenants: Sequence[Tenant]
    classes: Sequence[ClassRules] = ()  # each at most once; the others have the defaults
    currency: str = ""  # of the prices, as ISO 4217 writes it; empty: there are none
    prices: Sequence[Price] = ()  # each model at most once
    warnings: Sequence[Problem] = ()  # what may not be meant, in the order of the file
    audit_keep_days: int = 0  # how long the audit log keeps entries; 0: for ever
