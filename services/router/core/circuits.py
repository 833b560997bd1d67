"""Circuit breakers, one for each endpoint: who fails again and again is left alone for a while.

The router hears from a runtime that Envoy can't reach, so its word is not enough; what became of
the requests that went there is. Source: M. Nygard, Release It! (2007), "Circuit Breaker".

A stream's end may be told minutes after its beginning. So failures and successes are put in order
by when their requests began: one success takes back every failure that began before it.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from services.router.core.endings import Code, Ended
from services.router.core.value import value

OPENS_AFTER = 3  # failures without a success that began later
TRIED_AGAIN_AFTER_S = 2.0  # one request goes there then, and decides


@value
class Outcome:
    address: str
    succeeded: bool


def outcomes(order: Sequence[str], end: Ended) -> Iterator[Outcome]:
    """What one request tells of the endpoints that it was sent to. `order`: Envoy's, from Check.

    A caller who left, and whatever a runtime answered, are no failures. Nor is an arm that lost a
    race: it was late.
    """
    failed = 0 if end.hedged else max(end.attempts - 1, 0)
    for address in order[:failed]:
        if address != end.endpoint:
            yield Outcome(address, succeeded=False)
    if end.usage is not None or end.first_token_s is not None:
        yield Outcome(end.endpoint, succeeded=True)
    elif end.grpc_code == Code.UNAVAILABLE and end.attempts > 0 and end.endpoint:
        yield Outcome(end.endpoint, succeeded=False)


@dataclass(slots=True)
class _Circuit:
    failures: list[float] = field(default_factory=list)  # when their requests began
    succeeded_s: float = -math.inf  # when the last request that succeeded began
    shut_until_s: float = 0.0  # to new requests

    @property
    def broken(self) -> bool:
        return len(self.failures) >= OPENS_AFTER


class Circuits:
    """`changed` is told of an address whose circuit opens (True) or closes."""

    def __init__(self, changed: Callable[[str, bool], None] = lambda *_: None) -> None:
        self._by_address: defaultdict[str, _Circuit] = defaultdict(_Circuit)
        self._broken: set[str] = set()
        self._changed = changed

    def is_open(self, address: str, now_s: float) -> bool:
        """New requests stay away."""
        return address in self._broken and now_s < self._by_address[address].shut_until_s

    def open(self, now_s: float) -> Mapping[str, str]:
        """Addresses that new requests stay away from, and why; mostly none."""
        return {each: "circuit open" for each in self._broken if self.is_open(each, now_s)}

    def sent(self, address: str, now_s: float) -> None:
        """A request goes there. Where the circuit is half open, it is the only one for a while."""
        circuit = self._by_address.get(address)
        if circuit is not None and circuit.broken:
            circuit.shut_until_s = now_s + TRIED_AGAIN_AFTER_S

    def learn(self, outcome: Outcome, *, began_s: float, now_s: float) -> None:
        circuit = self._by_address[outcome.address]
        was_broken = circuit.broken
        if outcome.succeeded:
            circuit.succeeded_s = max(circuit.succeeded_s, began_s)
            circuit.failures = [at for at in circuit.failures if at > circuit.succeeded_s]
        elif began_s > circuit.succeeded_s:
            circuit.failures = sorted([*circuit.failures, began_s])[-OPENS_AFTER:]
            circuit.shut_until_s = now_s + TRIED_AGAIN_AFTER_S
        if circuit.broken is not was_broken:
            (self._broken.add if circuit.broken else self._broken.discard)(outcome.address)
            self._changed(outcome.address, circuit.broken)

    def restarted(self, address: str) -> None:
        """Another process serves there now."""
        self._by_address.pop(address, None)
        self._broken.discard(address)
