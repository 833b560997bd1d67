"""Who waits in one lane, and who is next: band, then tenant, then earliest deadline.

Bands by bands.py, tenants within a band by fairness.py. Within a tenant earliest deadline first
(Liu and Layland 1973): its own requests compete with nobody else's. Adding, leaving and the next
one cost the logarithm of who waits.
"""

from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from services.router.core.bands import Band, BandTurns
from services.router.core.fairness import Turns, service
from services.router.core.lanes import Lane
from services.router.core.value import value


@value
class Waiting:
    """A request that may have to wait. `tokens` is what it may take of a KV cache."""

    request_id: str
    lane: Lane
    tenant: str
    weight: int
    band: Band
    prompt_tokens: int
    output_tokens: int  # at most
    since_s: float
    deadline_s: float
    until_s: float  # the longest that it may wait

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.output_tokens


_Place = tuple[float, int, Waiting]  # deadline, arrival


@dataclass(slots=True)
class _Line:
    """One tenant's requests in one band."""

    weight: int
    places: list[_Place] = field(default_factory=list)  # the earliest deadline first
    service: float = 0.0  # that they will take, as predicted


@dataclass(slots=True)
class _Predicted:
    arrival: int
    service: float


class BandQueue:
    def __init__(self) -> None:
        self.turns = Turns()
        self.waiting = 0
        self.service = 0.0  # that all of them will take, as predicted
        self.weight = 0  # of the tenants that wait, together
        self._lines: dict[str, _Line] = {}
        self._predicted: dict[str, _Predicted] = {}  # by request
        self._arrivals = 0

    @property
    def someone_waits(self) -> bool:
        """Here or elsewhere."""
        return self.waiting > 0 or self.turns.waits_elsewhere

    def of(self, tenant: str) -> int:
        line = self._lines.get(tenant)
        return len(line.places) if line else 0

    def tenants(self) -> Mapping[str, int]:
        return {tenant: len(line.places) for tenant, line in self._lines.items()}

    def add(self, waiting: Waiting) -> None:
        line = self._lines.get(waiting.tenant)
        if line is None:
            line = self._lines[waiting.tenant] = _Line(waiting.weight)
            self.weight += line.weight
            self.turns.enter(waiting.tenant)
        self._arrivals += 1
        predicted = _Predicted(self._arrivals, self.cost(waiting))
        self._predicted[waiting.request_id] = predicted
        insort(line.places, (waiting.deadline_s, predicted.arrival, waiting))
        self._count(line, 1, predicted.service)

    def remove(self, waiting: Waiting) -> None:
        line = self._lines[waiting.tenant]
        predicted = self._predicted.pop(waiting.request_id)
        del line.places[bisect_left(line.places, (waiting.deadline_s, predicted.arrival))]
        self._count(line, -1, -predicted.service)
        if not line.places:
            del self._lines[waiting.tenant]
            self.weight -= line.weight
            self.turns.leave(waiting.tenant)
        if not self._lines:
            self.service = 0.0  # no rounding is carried on

    def first(self) -> Waiting | None:
        tenant = self.turns.first()
        return None if tenant is None else self._lines[tenant].places[0][2]

    def cost(self, waiting: Waiting) -> float:
        written = self.turns.predicted_output(waiting.tenant, waiting.output_tokens)
        return service(waiting.prompt_tokens, written)

    def service_ahead(self, waiting: Waiting) -> float:
        """What will be given before its turn if nobody else came: to its own tenant's earlier
        deadlines, and meanwhile to the others that are as far or less far."""
        line = self._lines.get(waiting.tenant)
        own = earlier = 0
        if line is not None:
            own = len(line.places)
            earlier = bisect_left(line.places, (waiting.deadline_s, self._arrivals + 1))
        mine = line.service * earlier / own if line and own else 0.0
        weight = self.weight if line else self.weight + waiting.weight
        lead = self.turns.counter(waiting.tenant) - self.turns.level()
        return min((lead + mine / waiting.weight) * weight, self.service)

    def _count(self, line: _Line, requests: int, predicted: float) -> None:
        self.waiting += requests
        self.service += predicted
        line.service += predicted


class ModelQueue:
    def __init__(self, *, batch_share: float) -> None:
        self.bands: Mapping[Band, BandQueue] = {band: BandQueue() for band in Band}
        self._turns = BandTurns(batch_share=batch_share)

    def __len__(self) -> int:
        return sum(band.waiting for band in self.bands.values())

    def of(self, tenant: str) -> int:
        return sum(band.of(tenant) for band in self.bands.values())

    def first(self) -> Waiting | None:
        order: Sequence[Band] = tuple(Band)
        if self._turns.first() is Band.BATCH:
            order = order[::-1]
        for band in order:
            waiting = self.bands[band].first()
            if waiting is not None:
                return waiting
        return None

    def served(self, waiting: Waiting, given: float) -> None:
        """It is let go, whether it waited or not."""
        self._turns.served(waiting.band, given, both_wait=self._both_wait())
        self.bands[waiting.band].turns.charge(waiting.tenant, given, weight=waiting.weight)

    def served_elsewhere(self, band: Band, tenant: str, given: float, *, weight: float) -> None:
        """By another router, or taken back."""
        self._turns.served(band, max(0.0, given), both_wait=self._both_wait())
        self.bands[band].turns.charge_elsewhere(tenant, given, weight=weight)

    def someone_elsewhere(self) -> bool:
        interactive, batch = self.bands.values()
        return interactive.turns.waits_elsewhere or batch.turns.waits_elsewhere

    def first_elsewhere(self, waiting: Waiting, lead: float) -> str | None:
        """Who waits at another router and has its turn before this one, which is further ahead than
        by `lead`."""
        turns = self.bands[waiting.band].turns
        rival = turns.first_elsewhere()
        if rival and turns.counter(waiting.tenant) > turns.counter(rival) + lead / waiting.weight:
            return rival
        band = self._turns.first(owed_for=0.0 if waiting.band is Band.BATCH else lead)
        return None if band is waiting.band else self.bands[band].turns.first_elsewhere()

    def _both_wait(self) -> bool:
        interactive, batch = self.bands.values()
        return interactive.someone_waits and batch.someone_waits
