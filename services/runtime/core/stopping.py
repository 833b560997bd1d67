"""Stop strings over text that arrives in pieces: nothing of a stop string is ever let out."""

from collections.abc import Sequence


class StopScanner:
    """Holds back text that may be the beginning of a stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.met = False

    @property
    def holds(self) -> bool:
        return bool(self._held)

    def push(self, text: str) -> str:
        """What may be let out now. After a stop string was met: the text before it, once."""
        self._held += text
        found = [at for at in (self._held.find(stop) for stop in self._stops) if at >= 0]
        if found:
            self.met = True
            return self._take(min(found))
        return self._take(len(self._held) - self._doubtful())

    def flush(self) -> str:
        """The rest, when nothing more comes."""
        return "" if self.met else self._take(len(self._held))

    def _take(self, length: int) -> str:
        out, self._held = self._held[:length], self._held[length:]
        return out

    def _doubtful(self) -> int:
        """Length of the longest end of the text that begins a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0
