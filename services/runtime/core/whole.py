"""Gathers an answer while it is made, as one step, for whoever wants all of it at the end."""

from dataclasses import replace

from services.runtime.core.engine import Step

_TOKEN_BYTES = 64  # of a step or a log probability beside its text, on the safe side


class Whole:
    """Beyond `most_bytes` it forgets, and gathers no more."""

    def __init__(self, *, most_bytes: int) -> None:
        self._room_bytes = most_bytes
        self._steps: list[Step] = []

    def add(self, step: Step) -> None:
        logprobs = sum(1 + len(each.alternatives) for each in step.logprobs)
        self._room_bytes -= len(step.text) + _TOKEN_BYTES * (1 + logprobs)
        if self._room_bytes < 0:
            self._steps.clear()
        else:
            self._steps.append(step)

    def step(self) -> Step | None:
        """None: it was too long, or its end is still to come."""
        if not self._steps or self._steps[-1].finish_reason is None:
            return None
        return replace(
            self._steps[-1],
            text="".join(each.text for each in self._steps),
            tokens=sum(each.tokens for each in self._steps),
            logprobs=tuple(logprob for each in self._steps for logprob in each.logprobs),
        )
