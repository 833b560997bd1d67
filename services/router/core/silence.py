"""How long a peer has said nothing, not counting time in which we ourselves stood still.

A router that was frozen, or starved of its processor, finds its peers' words waiting when it goes
on. Were its own absence counted as theirs, it would leave out every runtime at that moment.
"""

LOOK_EVERY_S = 0.05
_MOST_PER_LOOK_S = 2 * LOOK_EVERY_S  # a look that comes later than this was held up by us


class Silence:
    """Look every LOOK_EVERY_S. `now_s` is of any monotonic clock."""

    def __init__(self, *, limit_s: float, now_s: float) -> None:
        self._limit_s = limit_s
        self._silent_s = 0.0
        self._looked_at_s = now_s

    def heard(self, *, limit_s: float) -> None:
        """A word has come; the next may take as long as `limit_s`."""
        self._limit_s = limit_s
        self._silent_s = 0.0

    def too_long(self, now_s: float) -> bool:
        self._silent_s += min(now_s - self._looked_at_s, _MOST_PER_LOOK_S)
        self._looked_at_s = now_s
        return self._silent_s > self._limit_s
