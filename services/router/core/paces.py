"""How fast each model has answered lately, and so how long an answer is expected to take.

Means with exponentially fading weight of the time to the first token (which includes waiting and
the prompt's own reading), of the time of each further token, and of how many are written.
"""

from dataclasses import dataclass

_NEW = 0.1  # weight of what came last


@dataclass(slots=True)
class _Pace:
    first_token_s: float
    later_token_s: float
    tokens: float


class Paces:
    """By model; there are as many as have answered."""

    def __init__(self) -> None:
        self._paces: dict[str, _Pace] = {}

    def expected_s(self, model: str, *, at_most_tokens: int) -> float:
        """Until the last token of an answer. 0 as long as nothing is known."""
        pace = self._paces.get(model)
        if pace is None:
            return 0.0
        tokens = min(pace.tokens, at_most_tokens)
        return pace.first_token_s + max(0.0, tokens - 1) * pace.later_token_s

    def learn(
        self, model: str, *, first_token_s: float, duration_s: float, tokens: int, cut: bool = False
    ) -> None:
        """Of a whole answer. `cut`: it would have had more tokens, nobody knows how many."""
        if tokens < 1:
            return
        pace = self._paces.get(model)
        if pace is None:
            pace = self._paces[model] = _Pace(first_token_s, 0.0, tokens)
        pace.first_token_s += _NEW * (first_token_s - pace.first_token_s)
        pace.tokens += _NEW * ((max(tokens, pace.tokens) if cut else tokens) - pace.tokens)
        if tokens > 1:
            each_s = max(0.0, duration_s - first_token_s) / (tokens - 1)
            known_s = pace.later_token_s or each_s
            pace.later_token_s = known_s + _NEW * (each_s - known_s)
