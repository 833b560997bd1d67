"""What one request asks for, whichever protocol it came by."""

from dataclasses import dataclass
from enum import Enum

_LONGEST_NAME = 200  # names are kept with each decision


class WorkloadClass(Enum):
    INTERACTIVE = "interactive"
    BATCH = "batch"
    HIGH_RISK = "high_risk"


class InvalidDemand(ValueError):
    """A field can't be meant; `field` names it as the caller wrote it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


@dataclass(frozen=True, slots=True)
class Prompt:
    tokens: int
    exact: bool  # the caller sent token ids; otherwise `tokens` is an estimate


@dataclass(frozen=True, slots=True)
class Output:
    """How much the caller lets the model write."""

    at_most_tokens: int | None  # None: not said
    field: str  # by what name the caller would say it

    def __post_init__(self) -> None:
        if self.at_most_tokens is not None and self.at_most_tokens < 1:
            raise InvalidDemand(self.field, f"must be at least 1, got {self.at_most_tokens}")


@dataclass(frozen=True, slots=True)
class Demand:
    model: str
    workload_class: WorkloadClass | None  # None: the tenant's default
    prompt: Prompt
    output: Output | None  # None: nothing is written
    # Of a stream that broke, which this one carries on; None: answers of this kind can't be.
    resumed_tokens: int | None = None

    def __post_init__(self) -> None:
        if not self.model:
            raise InvalidDemand("model", "must not be empty")
        if len(self.model) > _LONGEST_NAME:
            raise InvalidDemand("model", f"must have at most {_LONGEST_NAME} characters")


_BYTES_PER_TOKEN = 4  # of English text, for vocabularies of 30,000 to 150,000


def estimated_tokens(text_bytes: int) -> int:
    """A guess, for balancing load; the runtime counts."""
    return 1 + text_bytes // _BYTES_PER_TOKEN
