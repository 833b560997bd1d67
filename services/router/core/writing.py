"""How long answers take to be written: who would be cut off at its deadline is not begun.

Two answers. `at_least` is what the fastest took: a request leaves the queue only when not even that
would do. `usually` is what it takes on average: one that just arrives is refused by that, at once,
rather than after a wait. Before anything is known, both are none.
"""

from dataclasses import dataclass

_TELLING_TOKENS = 8  # shorter ones tell little
_FORGOTTEN = 1.01  # a minute's requests undo a minimum that holds no more
_LEARNED = 0.1  # how much the last one counts in what is usual


@dataclass(slots=True)
class Writing:
    """Of one model's endpoints. Seconds for each output token after the first."""

    least_s: float = 0.0
    usual_s: float = 0.0

    def learn(self, output_tokens: int, took_s: float) -> None:
        """`took_s`: from the first token to the last."""
        if output_tokens < _TELLING_TOKENS or took_s <= 0.0:
            return
        each_s = took_s / (output_tokens - 1)
        self.least_s = min(self.least_s * _FORGOTTEN or each_s, each_s)
        self.usual_s += _LEARNED * (each_s - self.usual_s) if self.usual_s else each_s

    def at_least(self, tokens: float) -> float:
        return tokens * self.least_s

    def usually(self, tokens: float) -> float:
        return tokens * self.usual_s
