"""Yielding: room is left to a tenant that waits at another router and was served less.

Routers in front of the same endpoints each fill what room they see, and who hears first of an end
would keep its share of the room for ever, whoever waits elsewhere. So a router lets go only those
of its own who are no further ahead than by `lead`; the room that it leaves, the other finds in the
endpoint's next report. What nobody takes within PATIENCE_S is used after all, until the others are
seen to be served again: they may wait for what this room is not.
"""

PATIENCE_S = 0.3  # until the others hear of the room, take it and have told
_DELAY_S = 0.25  # until what the others have given is known here


def lead(request: float, per_s: float) -> float:
    """Weighted service: of the request itself, and of what is given before anybody hears of it."""
    return request + per_s * _DELAY_S


class Patience:
    """In one queue."""

    def __init__(self) -> None:
        self._since_s: float | None = None
        self._in_vain = False

    def lasts(self, now_s: float) -> bool:
        """Somebody elsewhere has the turn."""
        if self._in_vain:
            return False
        if self._since_s is None:
            self._since_s = now_s
        self._in_vain = now_s - self._since_s > PATIENCE_S
        return not self._in_vain

    def rest(self) -> None:
        """Nobody elsewhere has."""
        self._since_s = None

    def taken(self) -> None:
        """The others were served."""
        self._since_s = None
        self._in_vain = False
