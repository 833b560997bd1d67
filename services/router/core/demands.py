"""What one request asks for, whichever protocol it came by."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from services.router.core.value import value

_UNSAID_OUTPUT_TOKENS = 512  # what the runtimes write at most when nobody says
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


@value
class Prompt:
    tokens: int
    exact: bool  # the caller sent token ids; otherwise `tokens` is an estimate
    chat: bool = False  # messages, of which the older ones can be left out
    start: bytes = b""  # the first of it, as far as it matters to prefix caches


@value
class Output:
    """How much the caller lets the model write."""

    at_most_tokens: int | None  # None: not said
    field: str  # by what name the caller would say it

    def __post_init__(self) -> None:
        if self.at_most_tokens is not None and self.at_most_tokens < 1:
            raise InvalidDemand(self.field, f"must be at least 1, got {self.at_most_tokens}")

    def most(self, tenants_tokens: int) -> int:
        """What may be written, as far as one can know. `tenants_tokens`: its limit; 0: none."""
        unsaid = min(_UNSAID_OUTPUT_TOKENS, tenants_tokens or _UNSAID_OUTPUT_TOKENS)
        return self.at_most_tokens or unsaid


class CacheUse(Enum):
    """What a caller says about answers that were given before."""

    UNSAID = "unsaid"  # as its class's rules say
    ALLOW = "allow"
    BYPASS = "bypass"


@dataclass(frozen=True, slots=True)
class Repeatable:
    """A request whose answer may be given again."""

    use: CacheUse
    deterministic: bool  # the same request has the same answer
    request_bytes: int
    content: Callable[[], bytes]  # all of it that the answer depends on, in one way only


@value
class Demand:
    model: str
    workload_class: WorkloadClass | None  # None: the tenant's default
    prompt: Prompt
    output: Output | None  # None: nothing is written
    # Of a stream that broke, which this one carries on; None: answers of this kind can't be.
    resumed_tokens: int | None = None
    repeatable: Repeatable | None = None  # None: it has no answer to be given again
    prompt_version: str = ""  # of the registry's, "<name>@<version>"; empty: it named none

    def __post_init__(self) -> None:
        if not self.model:
            raise InvalidDemand("model", "must not be empty")
        if len(self.model) > _LONGEST_NAME:
            raise InvalidDemand("model", f"must have at most {_LONGEST_NAME} characters")


BYTES_PER_TOKEN = 4  # of English text, for vocabularies of 30,000 to 150,000


def estimated_tokens(text_bytes: int) -> int:
    """A guess, for balancing load; the runtime counts."""
    return 1 + text_bytes // BYTES_PER_TOKEN
