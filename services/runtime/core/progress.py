"""Whether an engine gets on with its work: a hung one still answers, and would keep its callers.

Reading a long prompt is progress too: every engine counts the steps it makes, whatever they are
for. Not counted is time in which this process stood still as a whole, frozen or starved: its
engine could do nothing then.
"""

from services.runtime.core.engine import EngineState

LOOK_EVERY_S = 0.05
_MOST_PER_LOOK_S = 2 * LOOK_EVERY_S


class Progress:
    """Look every LOOK_EVERY_S. `now_s` is of any monotonic clock."""

    def __init__(self, *, now_s: float) -> None:
        self._steps = 0
        self._without_s = 0.0
        self._looked_at_s = now_s

    def without_s(self, state: EngineState, now_s: float) -> float:
        """For how long it has had work and made no step."""
        idle = state.running + state.waiting == 0
        if idle or state.steps != self._steps:
            self._without_s = 0.0
        else:
            self._without_s += min(now_s - self._looked_at_s, _MOST_PER_LOOK_S)
        self._steps = state.steps
        self._looked_at_s = now_s
        return self._without_s
