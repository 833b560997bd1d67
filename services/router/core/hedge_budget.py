"""How many hedges there may be: a token bucket that requests fill and arms empty.

Sources: the throttling of retries and hedges in gRPC (gRFC A6); Dean and Barroso, The Tail at
Scale (CACM 2013), hedged requests.

Envoy sends a hedge by itself once the router has promised it, and says so a moment later. So an arm
is paid for when it is reported, and what was promised meanwhile may overdraw the bucket; then none
is promised until that is earned back. How far it can go is bounded too: were all that is promised
sent, the last minute's arms would still be at most MOST_SHARE of its requests, and BURST.
"""

import heapq
import math

BURST = 10.0  # hedges that may follow each other at once
MOST_SHARE = 0.10
_MINUTE_S = 60.0


class HedgeBudget:
    """`share`: hedges for each request, over time. `now_s` is of any monotonic clock."""

    def __init__(self, share: float) -> None:
        if not 0 <= share <= MOST_SHARE:
            raise ValueError(f"the share of hedges must be from 0 to {MOST_SHARE}, got {share}")
        self.share = share
        self._tokens = BURST
        self._requests = _Fading()
        self._sent = _Fading()
        self._promised: dict[str, float] = {}  # by request: when it is decided
        self._decided: list[tuple[float, str]] = []  # a heap of the same, and of what is over

    @property
    def tokens(self) -> float:
        return self._tokens

    def promised(self, now_s: float) -> int:
        """Hedges that may be sent yet, as far as one knows."""
        while self._decided and self._decided[0][0] <= now_s:
            _, request_id = heapq.heappop(self._decided)
            self._promised.pop(request_id, None)
        return len(self._promised)

    def earn(self, now_s: float) -> None:
        """For each request that is let go, hedged or not."""
        self._tokens = min(BURST, self._tokens + self.share)
        self._requests.add(now_s)

    def allows(self, now_s: float) -> bool:
        at_most = MOST_SHARE * self._requests.level(now_s) + BURST
        return (
            self._tokens >= 1.0 and self._sent.level(now_s) + self.promised(now_s) + 1.0 <= at_most
        )

    def promise(self, request_id: str, *, decided_at_s: float) -> None:
        """Envoy may send a hedge for it; by `decided_at_s` a word of that is here, or none was."""
        self._promised[request_id] = decided_at_s
        heapq.heappush(self._decided, (decided_at_s, request_id))

    def spend(self, request_id: str, now_s: float) -> None:
        """It was sent; to be said once, however late."""
        self._promised.pop(request_id, None)
        self._sent.add(now_s)
        self._tokens -= 1.0

    def release(self, request_id: str) -> None:
        """It was not sent, and won't be."""
        self._promised.pop(request_id, None)


class _Fading:
    """How many there were in the last minute, those of long ago counting less."""

    def __init__(self) -> None:
        self._count = 0.0
        self._at_s = 0.0

    def level(self, now_s: float) -> float:
        if now_s > self._at_s:
            self._count *= math.exp((self._at_s - now_s) / _MINUTE_S)
            self._at_s = now_s
        return self._count

    def add(self, now_s: float) -> None:
        self._count = self.level(now_s) + 1.0
