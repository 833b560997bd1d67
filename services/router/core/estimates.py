"""Estimates of prompts in tokens, corrected by what the runtimes then count.

What is learned for a model is the ratio of counted tokens to estimated ones, both summed over its
requests with exponentially fading weight, so that long prompts, whose load matters, decide. It
begins at 1 with some weight of its own, and is kept within bounds: no text has ten tokens a byte.
"""

from collections import defaultdict
from dataclasses import dataclass, replace

from services.router.core.demands import Demand, Prompt

_FADE = 0.98  # of what was known, for each request more
_BEGIN_TOKENS = 500.0  # the weight of knowing nothing
_LEAST, _MOST = 0.25, 4.0  # bytes a token: 16, and 1


@dataclass(slots=True)
class _Sums:
    counted: float = _BEGIN_TOKENS
    estimated: float = _BEGIN_TOKENS

    def ratio(self) -> float:
        return min(max(self.counted / self.estimated, _LEAST), _MOST)


class Estimates:
    """By model; there are as many as have answered."""

    def __init__(self) -> None:
        self._sums: defaultdict[str, _Sums] = defaultdict(_Sums)

    def ratio(self, model: str) -> float:
        """By what an estimate is multiplied."""
        sums = self._sums.get(model)
        return 1.0 if sums is None else sums.ratio()

    def corrected(self, demand: Demand) -> Demand:
        prompt = demand.prompt
        if prompt.exact or demand.model not in self._sums:
            return demand
        tokens = max(1, round(prompt.tokens * self.ratio(demand.model)))
        counted = Prompt(tokens, exact=False, chat=prompt.chat, start=prompt.start)
        return replace(demand, prompt=counted)

    def learn(self, model: str, *, estimated: int, counted: int) -> None:
        """`estimated`: before its correction."""
        if estimated < 1 or counted < 1:
            return
        sums = self._sums[model]
        sums.estimated = sums.estimated * _FADE + estimated
        # What is out of bounds would be remembered for long after it has become right.
        sums.counted = sums.counted * _FADE + min(
            max(counted, estimated * _LEAST), estimated * _MOST
        )
