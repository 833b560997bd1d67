"""What a degradation ladder is made of: what may be given up, and when. Values only."""

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from services.router.core.value import value


class Trigger(Enum):
    SATURATED = "saturated"
    DEADLINE_AT_RISK = "deadline_at_risk"
    MODEL_UNHEALTHY = "model_unhealthy"
    BUDGET_LOW = "budget_low"


@value
class Triggers:
    """Which of them hold for a request as it stands."""

    saturated: bool = False  # all endpoints that could answer do all that they can at once
    deadline_at_risk: bool = False  # the answer is not expected to be whole in time
    model_unhealthy: bool = False  # no endpoint can answer for the model now
    budget_low: bool = False  # of a budget that counts it, little is left

    def hold(self, trigger: Trigger) -> bool:
        if trigger is Trigger.SATURATED:
            return self.saturated
        if trigger is Trigger.DEADLINE_AT_RISK:
            return self.deadline_at_risk
        if trigger is Trigger.BUDGET_LOW:
            return self.budget_low
        return self.model_unhealthy


@dataclass(frozen=True, slots=True)
class FallbackModel:
    when: Trigger
    model: str
    name: ClassVar[str] = "fallback_model"


@dataclass(frozen=True, slots=True)
class SmallerOutput:
    when: Trigger
    max_tokens: int
    name: ClassVar[str] = "smaller_output"


@dataclass(frozen=True, slots=True)
class SmallerContext:
    when: Trigger
    max_tokens: int  # of the prompt
    name: ClassVar[str] = "smaller_context"


@dataclass(frozen=True, slots=True)
class Refuse:
    when: Trigger
    name: ClassVar[str] = "refuse"


Rung = FallbackModel | SmallerOutput | SmallerContext | Refuse


@dataclass(frozen=True, slots=True)
class Degradation:
    """A rung that was taken, and why."""

    rung: str
    reason: str  # a trigger's value

    def __str__(self) -> str:
        return f"{self.rung}={self.reason}"


@dataclass(frozen=True, slots=True)
class Caps:
    """What a runtime cuts a request to, instead of refusing it. 0: nothing."""

    output_tokens: int = 0
    prompt_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Degraded:
    """What a ladder did to one request."""

    taken: tuple[Degradation, ...] = ()  # in order
    skipped: tuple[str, ...] = ()  # rungs whose trigger held, and why they were not taken
    caps: Caps = Caps()


UNDEGRADED = Degraded()
