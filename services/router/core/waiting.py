"""Predictions: how long a request will wait, and how long its prompt will take to read.

So that one whose deadline can't be met is refused at once and does not wait to die.

Both err on the short side: a refusal by mistake is worse than a wait in vain, which ends in the
queue at the moment when the deadline can't be met any more.
"""

import math
from dataclasses import dataclass

_SMOOTHED_S = 10.0  # the pace of the last ten seconds; streams last as long
_KNOWN_AFTER_S = 1.0  # of waiting: a burst says nothing about the pace
_FORGOTTEN = 1.01  # a minute's requests undo a minimum that holds no more
_TELLING_TOKENS = 64  # shorter prompts tell the length of a step, not of reading


class Pace:
    """The service given per second to those who wait, while some do."""

    def __init__(self) -> None:
        self._service = 0.0
        self._busy_s = 0.0
        self._at_s = 0.0

    def began(self, now_s: float) -> None:
        """Somebody waits, after nobody did."""
        self._at_s = now_s

    def gave(self, service: float, now_s: float) -> None:
        """To one of those who wait."""
        passed_s = max(0.0, now_s - self._at_s)
        kept = math.exp(-passed_s / _SMOOTHED_S)
        self._service = self._service * kept + service
        self._busy_s = self._busy_s * kept + passed_s
        self._at_s = now_s

    def seconds(self, service: float, now_s: float) -> float:
        """How long so much will take. 0: nobody can say yet."""
        per_s = self.per_s(now_s)
        return service / per_s if per_s else 0.0

    def per_s(self, now_s: float) -> float:
        """0: nobody can say yet."""
        busy_s = self._busy_s + max(0.0, now_s - self._at_s)
        return self._service / busy_s if busy_s >= _KNOWN_AFTER_S else 0.0


@dataclass(slots=True)
class Reading:
    """How long a model's endpoints take for each prompt token that they have not cached."""

    s_per_token: float = 0.0  # the shortest of late; 0: none was long enough to tell

    def learn(self, uncached_tokens: int, took_s: float) -> None:
        if uncached_tokens < _TELLING_TOKENS or took_s <= 0.0:
            return
        each_s = took_s / uncached_tokens
        before_s = self.s_per_token * _FORGOTTEN or each_s
        self.s_per_token = min(before_s, each_s)

    def seconds(self, tokens: int) -> float:
        return tokens * self.s_per_token
