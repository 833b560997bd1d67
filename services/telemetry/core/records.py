"""How one request went, as a value."""

import math
from dataclasses import dataclass
from enum import Enum

CODES = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)  # by number: gRPC's, https://grpc.github.io/grpc/core/md_doc_statuscodes.html


class InvalidObservation(ValueError):
    """No request can have gone like this; the reporter has a bug."""


class WorkloadClass(Enum):
    UNKNOWN = "unknown"  # refused before its class was known
    INTERACTIVE = "interactive"
    BATCH = "batch"
    HIGH_RISK = "high_risk"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    prompt_tokens: int
    cached_prompt_tokens: int
    output_tokens: int

    def __post_init__(self) -> None:
        if min(self.prompt_tokens, self.cached_prompt_tokens, self.output_tokens) < 0:
            raise InvalidObservation(f"tokens must be at least 0, got {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LostAttempt:
    """What an attempt took that no observation counts."""

    tenant: str
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """Times are in seconds from the moment that the router was asked."""

    tenant: str
    model: str
    workload_class: WorkloadClass
    engine: str  # empty: none answered
    code: str  # one of CODES
    reason: str  # empty: none
    queue_wait_s: float | None  # None: refused
    time_to_first_token_s: float | None  # None: there was none
    duration_s: float
    usage: Usage | None  # None: the runtime never said
    attempts: int
    hedged: bool = False
    hedge_won: bool = False
    expected_cached_tokens: int = 0  # in the prefix cache, by the router
    degradations: tuple[tuple[str, str], ...] = ()  # rung and reason of each

    def __post_init__(self) -> None:
        times = (self.queue_wait_s, self.time_to_first_token_s, self.duration_s)
        if any(time is not None and not 0 <= time < math.inf for time in times):
            raise InvalidObservation(f"times must be at least 0 and finite, got {times}")
        if self.code not in CODES:
            raise InvalidObservation(f"must be a gRPC code, got {self.code!r}")
        if self.attempts < 0:
            raise InvalidObservation(f"attempts must be at least 0, got {self.attempts}")
        if self.hedge_won and not self.hedged:
            raise InvalidObservation("a hedge that was not sent can't have won")
        if self.expected_cached_tokens < 0:
            raise InvalidObservation("expected_cached_tokens must be at least 0")

    @property
    def succeeded(self) -> bool:
        return self.code == "OK"

    @property
    def time_per_output_token_s(self) -> float | None:
        """Mean time of each token after the first; None with fewer than two."""
        if self.usage is None or self.time_to_first_token_s is None:
            return None
        later_tokens = self.usage.output_tokens - 1
        if later_tokens < 1:
            return None
        return max(0.0, self.duration_s - self.time_to_first_token_s) / later_tokens
