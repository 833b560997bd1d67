"""When a runtime's state is worth a word to the routers. Each costs a router 0.2 ms of its core.

Counts change with every look under load, and matter only where room runs out: a router knows what
it has sent itself. So they are told soon near saturation, and else with the regular word.
"""

from dataclasses import dataclass

_NEARLY_FULL = 0.75  # share of the places or KV blocks taken, from which on counts are told soon


@dataclass(frozen=True, slots=True)
class Counts:
    running: int
    waiting: int
    max_running: int
    kv_blocks_free: int
    kv_blocks_total: int

    @property
    def is_idle(self) -> bool:
        return not (self.running or self.waiting)

    @property
    def is_nearly_full(self) -> bool:
        taken = self.kv_blocks_total - self.kv_blocks_free
        return (
            self.running + self.waiting >= _NEARLY_FULL * self.max_running
            or taken > _NEARLY_FULL * self.kv_blocks_total
        )


class Pace:
    """Ask once a look. `soon` and `regular` are numbers of looks."""

    def __init__(self, *, soon: int, regular: int) -> None:
        self._soon = soon
        self._regular = regular
        self._said: tuple[object, Counts] | None = None
        self._looks = 0  # since the last word

    def is_due(self, standing: object, counts: Counts) -> bool:
        """True when it is to be told now. `standing` is what is told at once when it differs."""
        self._looks += 1
        if self._said is not None and not self._has_news(standing, counts, *self._said):
            return False
        self._said, self._looks = (standing, counts), 0
        return True

    def _has_news(
        self, standing: object, counts: Counts, standing_before: object, before: Counts
    ) -> bool:
        if standing != standing_before or counts.is_idle is not before.is_idle:
            return True
        if self._looks >= self._regular:
            return True
        is_pressing = counts.is_nearly_full or before.is_nearly_full
        return is_pressing and counts != before and self._looks >= self._soon
