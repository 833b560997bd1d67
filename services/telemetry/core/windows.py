"""Quantiles of the last minutes: one sketch for each slot of time, merged when asked.

A sketch of everything since the start would bury today's trouble under last week's calm. DDSketch
(Masson, Rim, Lee, VLDB 2019) keeps relative accuracy and merges without loss.
"""

import math
from collections import deque
from collections.abc import Sequence

from ddsketch import DDSketch

ACCURACY = 0.01  # relative: a p99 of 100 ms is reported as 99 to 101 ms
QUANTILES = (0.5, 0.95, 0.99)


class Window:
    """Values of the last `slots` spans of `slot_s` seconds, the current one included.

    So what is reported covers between `(slots - 1) * slot_s` and `slots * slot_s` seconds.
    `now_s` may be any monotonic clock's, and must not go back.
    """

    def __init__(self, *, slot_s: float, slots: int) -> None:
        self._slot_s = slot_s
        self._slots = slots
        self._sketches: deque[tuple[int, DDSketch]] = deque()
        self._reported: Sequence[float] | None = None  # until something changes
        self.count = 0  # since the start
        self.sum = 0.0  # since the start

    def add(self, value: float, now_s: float) -> None:
        current = self._forget_old(now_s)
        if not self._sketches or self._sketches[-1][0] != current:
            self._sketches.append((current, DDSketch(ACCURACY)))
        self._sketches[-1][1].add(value)
        self._reported = None
        self.count += 1
        self.sum += value

    def quantiles(self, now_s: float) -> Sequence[float]:
        """The values at QUANTILES; NaN each while the window is empty."""
        self._forget_old(now_s)
        if self._reported is None:
            merged = DDSketch(ACCURACY)
            for _, sketch in self._sketches:
                merged.merge(sketch)
            found = [merged.get_quantile_value(quantile) for quantile in QUANTILES]
            self._reported = [math.nan if value is None else float(value) for value in found]
        return self._reported

    def _forget_old(self, now_s: float) -> int:
        current = int(now_s // self._slot_s)
        while self._sketches and self._sketches[0][0] <= current - self._slots:
            self._sketches.popleft()
            self._reported = None
        return current
