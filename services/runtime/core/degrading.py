"""What the router has degraded about a request: what to do, and why it is to be said."""

from collections.abc import Sequence
from dataclasses import dataclass

FALLBACK_MODEL = "fallback_model"
SMALLER_OUTPUT = "smaller_output"
SMALLER_CONTEXT = "smaller_context"


@dataclass(frozen=True, slots=True)
class Degradation:
    rung: str
    reason: str

    def __str__(self) -> str:
        return f"{self.rung}={self.reason}"


@dataclass(frozen=True, slots=True)
class Orders:
    """Caps cut what is longer; 0: nothing is cut."""

    degradations: Sequence[Degradation] = ()
    model: str = ""  # that answers in place of the one asked for; empty: that one
    output_tokens: int = 0
    prompt_tokens: int = 0

    def output(self, asked: int | None) -> int | None:
        """What is asked for, cut."""
        return min(asked, self.output_tokens) if asked and self.output_tokens else asked

    def done(self, *, output_cut: bool, prompt_cut: bool) -> tuple[Degradation, ...]:
        """Those by which the answer is another than it would have been."""
        done = {
            FALLBACK_MODEL: bool(self.model),
            SMALLER_OUTPUT: output_cut,
            SMALLER_CONTEXT: prompt_cut,
        }
        return tuple(each for each in self.degradations if done.get(each.rung, False))


AS_ASKED = Orders()
