"""What is under way at each endpoint: one slot for each admitted request, freed exactly once.

Whoever speaks first frees it: the gateway's access log, the request's own deadline when that
entry is lost, or a restart of the runtime. Late and repeated words change nothing.
"""

import heapq
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from services.router.core.expectations import NO_PREFIX, Prefix
from services.router.core.value import value
from services.router.core.weights import Weights

_SPARE_TIMERS = 1000  # ended requests whose timers may wait for the next clearing
_WEIGHTS = Weights()


@value
class Slot:
    address: str
    tokens: int  # prompt as estimated, and output at most
    expires_at_s: float  # when it is freed if nobody says that it ended
    prefill_tokens: int = 0  # of `tokens`, prompt to be computed: not expected in its cache
    decode_tokens: int = 0  # of `tokens`, output at most
    prefix: Prefix = NO_PREFIX


@value
class Load:
    tokens: int = 0
    requests: int = 0
    prefill_tokens: int = 0
    decode_tokens: int = 0


class InFlight:
    """`weights` says what an endpoint's load weighs against another's."""

    def __init__(self, weights: Weights = _WEIGHTS) -> None:
        self._weights = weights
        self._work: dict[str, float] = defaultdict(float)
        self._slots: dict[str, Slot] = {}
        self._arms: dict[str, Slot] = {}  # where requests' second arms run
        self._loads: dict[str, Load] = {}
        self._timers: list[tuple[float, str]] = []  # a heap; may name slots that are free again

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._slots

    def __len__(self) -> int:
        return len(self._slots)

    def timers(self) -> int:
        """What it remembers of ended requests too; bounded, so that load leaves nothing behind."""
        return len(self._timers)

    def load(self, address: str) -> Load:
        return self._loads.get(address, _IDLE)

    @property
    def work(self) -> Mapping[str, float]:
        """What is under way at each address, weighed; ready, since a thousand are asked for at
        once. Every address has some."""
        return self._work

    def admit(self, request_id: str, slot: Slot) -> None:
        assert request_id not in self._slots, "one request takes one slot"
        self._slots[request_id] = slot
        self._add(slot, 1)
        heapq.heappush(self._timers, (slot.expires_at_s, request_id))
        if len(self._timers) > 2 * len(self._slots) + _SPARE_TIMERS:
            self._clear_timers()

    def add_arm(self, request_id: str, address: str) -> bool:
        """A hedge: its request's tokens weigh there, too. False: no slot, or its arm is known."""
        slot = self._slots.get(request_id)
        if slot is None or request_id in self._arms:
            return False
        self._arms[request_id] = replace(slot, address=address)
        self._add(self._arms[request_id], 1)
        return True

    def has_arm(self, request_id: str) -> bool:
        return request_id in self._arms

    def end(self, request_id: str) -> Slot | None:
        """Frees the slot; None when it was free already or never taken."""
        slot = self._slots.pop(request_id, None)
        if slot is not None:
            self._add(slot, -1)
        arm = self._arms.pop(request_id, None)
        if arm is not None:
            self._add(arm, -1)
        return slot

    def expire(self, now_s: float) -> Sequence[str]:
        """Frees what should have ended by now; returns the requests."""
        expired = []
        while self._timers and self._timers[0][0] <= now_s:
            at_s, request_id = heapq.heappop(self._timers)
            slot = self._slots.get(request_id)
            # The id may have been used again since, with a later deadline.
            if slot is not None and slot.expires_at_s == at_s and self.end(request_id):
                expired.append(request_id)
        return expired

    def restarted(self, address: str) -> Sequence[str]:
        """Frees all that was sent to a process which is no more; returns the requests."""
        gone = [each for each, slot in self._slots.items() if slot.address == address]
        for request_id in gone:
            self.end(request_id)
        return gone

    def _add(self, slot: Slot, sign: int) -> None:
        before, weights = self.load(slot.address), self._weights
        after = Load(
            before.tokens + sign * slot.tokens,
            before.requests + sign,
            before.prefill_tokens + sign * slot.prefill_tokens,
            before.decode_tokens + sign * slot.decode_tokens,
        )
        assert after.tokens >= 0, "a slot was freed twice"
        assert after.requests >= 0, "a slot was freed twice"
        self._loads[slot.address] = after
        self._work[slot.address] = (
            weights.prefill * after.prefill_tokens + weights.decode * after.decode_tokens
        )

    def _clear_timers(self) -> None:
        self._timers = [(slot.expires_at_s, each) for each, slot in self._slots.items()]
        heapq.heapify(self._timers)


_IDLE = Load()
