"""Flow control: a request goes at once, waits in the queue, or is refused because it would in vain.

The queue is here and not in the runtimes: these get only what they can start now (saturation.py).
"""

import heapq
from collections.abc import Iterator, Mapping

from services.router.core.bands import Band
from services.router.core.endings import Ended
from services.router.core.exchange import Change
from services.router.core.fairness import Turns, service
from services.router.core.lanes import Lane
from services.router.core.queue import ModelQueue, Waiting
from services.router.core.queue_limits import QueueLimits, in_vain, too_late
from services.router.core.reserve import Reserve
from services.router.core.saturation import Saturation, Vacancies
from services.router.core.value import value
from services.router.core.verdicts import Refused
from services.router.core.waiting import Pace, Reading
from services.router.core.writing import Writing
from services.router.core.yielding import Patience, lead

_SPARE_TIMERS = 1000


@value
class Queueing:
    """Why a request had to wait, as it was when it began to."""

    reason: str  # "saturated": no endpoint had room; "behind others": others waited already
    band: Band
    ahead: int  # requests of its model that waited already
    counter: float  # its tenant's, in weighted tokens
    predicted_s: float  # 0: nobody could say


@value
class _Running:
    address: str
    waiting: Waiting
    charged: float


_Timer = tuple[float, int, Waiting]  # when it goes off, and which was set first


class _Model:
    def __init__(self, *, batch_share: float) -> None:
        self.queue = ModelQueue(batch_share=batch_share)
        self.pace = Pace()
        self.reading = Reading()
        self.writing = Writing()
        self.patience = Patience()
        self.reserve = Reserve()

    def written(self, waiting: Waiting) -> float:
        """Tokens that its answer may have. 0: nobody can say."""
        turns = self.queue.bands[waiting.band].turns
        return turns.usual_output(waiting.tenant, waiting.output_tokens)


class FlowControl:
    """`saturation` knows the endpoints. Touched between awaits only.

    `lets_all_go`: nobody waits here, and the endpoints' own queues take what comes.
    """

    def __init__(
        self,
        saturation: Saturation,
        limits: QueueLimits | None = None,
        *,
        lets_all_go: bool = False,
    ) -> None:
        self.saturation = saturation
        self._lets_all_go = lets_all_go
        self.limits = limits or QueueLimits()
        self._models: dict[Lane, _Model] = {}
        self._busy: dict[Lane, _Model] = {}  # those for which somebody waits
        self._waiting: dict[str, Waiting] = {}
        self._running: dict[str, _Running] = {}
        self._timers: list[_Timer] = []  # a heap; may name requests that have left
        self._offers = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def holds(self, request_id: str) -> bool:
        return request_id in self._waiting

    def depths(self) -> Mapping[Band, int]:
        depths = dict.fromkeys(Band, 0)
        for model in self._busy.values():
            for band, queue in model.queue.bands.items():
                depths[band] += queue.waiting
        return depths

    def may_pass(self, waiting: Waiting, now_s: float) -> bool:
        """Nobody waits before it, and an endpoint can start it now."""
        if self._lets_all_go:
            return True
        if waiting.lane in self._busy:
            before = self._busy[waiting.lane].reserve.first()
            if before is not None or not self._may_take_of_reserve(waiting):
                return False
        return self._starts(waiting, now_s)

    def vacancies(self, waiting: Waiting) -> Vacancies:
        """For this one."""
        short = bool(self.saturation.full_but_kept)
        keeping = short and not self._may_take_of_reserve(waiting)
        return self.saturation.vacancies(waiting.lane, keeping=keeping)

    def queues(self) -> Iterator[tuple[tuple[Lane, Band], Turns]]:
        for lane, model in self._models.items():
            for band, queue in model.queue.bands.items():
                yield (lane, band), queue.turns

    def elsewhere(self, change: Change, *, weight: int) -> None:
        """What another router has told of a tenant."""
        model = self._model(change.lane)
        turns = model.queue.bands[change.band].turns
        if change.waits > 0:
            turns.enter_elsewhere(change.tenant)
        if change.given:
            model.queue.served_elsewhere(change.band, change.tenant, change.given, weight=weight)
        if change.given > 0.0:
            model.patience.taken()
        if change.waits < 0:
            turns.leave_elsewhere(change.tenant)

    def offer(self, waiting: Waiting, now_s: float) -> Queueing | Refused:
        """Takes a request that may not pass into the queue, unless it would wait in vain."""
        model = self._model(waiting.lane)
        predicted_s = self._predicted_s(model, waiting, now_s)
        refused = self._turned_away(model, waiting, predicted_s)
        if refused:
            return refused
        queueing = Queueing(
            reason="behind others" if waiting.lane in self._busy else "saturated",
            band=waiting.band,
            ahead=len(model.queue),
            counter=model.queue.bands[waiting.band].turns.counter(waiting.tenant),
            predicted_s=predicted_s,
        )
        self._enter(model, waiting, now_s)
        return queueing

    def next(self, now_s: float) -> Waiting | None:
        """One that can be started now; it waits until `sent` or `left` is told."""
        for model in self._busy.values():
            first = model.queue.first()
            assert first is not None, "somebody waits"
            if self._starts(first, now_s):
                return first
            spared = self._first_for_reserve(model)
            if spared is not None and self._starts(spared, now_s):
                return spared
        return None

    def sent(self, waiting: Waiting, address: str, now_s: float) -> None:
        """It goes to a runtime, whether it waited or not."""
        model = self._model(waiting.lane)
        charged = model.queue.bands[waiting.band].cost(waiting)
        model.queue.served(waiting, charged)
        if self.left(waiting.request_id):
            model.pace.gave(charged, now_s)
        self.saturation.sent(address, waiting.tokens, now_s)
        model.reserve.began(waiting)
        self._running[waiting.request_id] = _Running(address, waiting, charged)

    def predicted_s(self, waiting: Waiting, now_s: float) -> float:
        """How long it would wait. 0: nobody can say."""
        return self._predicted_s(self._model(waiting.lane), waiting, now_s)

    def left(self, request_id: str) -> bool:
        """It waits no more, for whatever reason; False: it did not."""
        waiting = self._waiting.pop(request_id, None)
        if waiting is None:
            return False
        self._models[waiting.lane].reserve.left(request_id)
        queue = self._models[waiting.lane].queue
        queue.bands[waiting.band].remove(waiting)
        if not len(queue):
            del self._busy[waiting.lane]
        return True

    def expired(self, now_s: float) -> Iterator[tuple[Waiting, Refused]]:
        """Those who have waited too long; they wait no more."""
        while self._timers and self._timers[0][0] <= now_s:
            waiting = heapq.heappop(self._timers)[2]
            if self._waiting.get(waiting.request_id) is waiting:
                self.left(waiting.request_id)
                yield waiting, too_late(waiting, now_s)

    def freed(self, request_id: str, ended: Ended | None, queued_s: float | None) -> None:
        """One that was sent has ended; None: nobody knows how."""
        running = self._running.pop(request_id, None)
        if running is None:
            return
        self.saturation.freed(running.address)
        self._models[running.waiting.lane].reserve.ended(running.waiting)
        if ended is not None:
            self._settle(running, ended)
            _learn(self._models[running.waiting.lane], ended, queued_s or 0.0)

    def _starts(self, waiting: Waiting, now_s: float) -> bool:
        if self._has_room_for_all(waiting, now_s):
            return True
        keeping = not self._may_take_of_reserve(waiting)
        has_room = self.saturation.has_room(waiting.lane, waiting.tokens, now_s, keeping=keeping)
        return has_room and not (keeping and self._yields(waiting, now_s))

    def _has_room_for_all(self, waiting: Waiting, now_s: float) -> bool:
        """So it does not matter whether it may take of the reserve; as nearly always."""
        if self._model(waiting.lane).queue.someone_elsewhere():
            return False
        return self.saturation.has_room(waiting.lane, waiting.tokens, now_s, keeping=True)

    def _may_take_of_reserve(self, waiting: Waiting) -> bool:
        model = self._model(waiting.lane)
        queue = model.queue.bands[waiting.band]
        slots = self.saturation.slots(waiting.lane) / self.saturation.routers
        return model.reserve.is_for(waiting, queue.turns, queue.cost(waiting), slots=slots)

    def _first_for_reserve(self, model: _Model) -> Waiting | None:
        while (first := model.reserve.first()) is not None:
            if self._may_take_of_reserve(first):
                return first
            model.reserve.left(first.request_id)
        return None

    def _yields(self, waiting: Waiting, now_s: float) -> bool:
        """The room is left to somebody who waits at another router."""
        model = self._models.get(waiting.lane)
        if model is None or not model.queue.someone_elsewhere():
            return False
        cost = model.queue.bands[waiting.band].cost(waiting)
        ahead = lead(cost, model.pace.per_s(now_s))
        if model.queue.first_elsewhere(waiting, ahead) is None:
            model.patience.rest()
            return False
        return model.patience.lasts(now_s)

    def _settle(self, running: _Running, ended: Ended) -> None:
        """Corrects what was charged by what it was."""
        waiting, usage = running.waiting, ended.usage
        if usage is None and ended.first_token_s is not None:
            return  # it was cut off, and how much it had nobody knows
        given = service(usage.prompt_tokens, usage.output_tokens) if usage else 0.0
        turns = self._models[waiting.lane].queue.bands[waiting.band].turns
        turns.charge(waiting.tenant, given - running.charged, weight=waiting.weight)
        if usage is not None and ended.grpc_code == 0:
            turns.wrote(waiting.tenant, usage.output_tokens)

    def _turned_away(self, model: _Model, waiting: Waiting, predicted_s: float) -> Refused | None:
        tenant = waiting.tenant
        return self.limits.no_place(
            tenant,
            total=len(self._waiting),
            theirs=sum(each.queue.of(tenant) for each in self._busy.values()),
            predicted_s=predicted_s,
        ) or in_vain(
            waiting,
            predicted_s=predicted_s,
            reading_s=model.reading.seconds(waiting.prompt_tokens),
            writing_s=model.writing.usually(model.written(waiting)),
        )

    def _enter(self, model: _Model, waiting: Waiting, now_s: float) -> None:
        if waiting.lane not in self._busy:
            self._busy[waiting.lane] = model
            model.pace.began(now_s)
        model.queue.bands[waiting.band].add(waiting)
        self._waiting[waiting.request_id] = waiting
        if self._may_take_of_reserve(waiting):
            model.reserve.found_empty(waiting)
        reading_s = model.reading.seconds(waiting.prompt_tokens)
        writing_s = model.writing.at_least(model.written(waiting))
        last_s = waiting.deadline_s - reading_s - writing_s
        self._remind(min(waiting.until_s, last_s), waiting)

    def _predicted_s(self, model: _Model, waiting: Waiting, now_s: float) -> float:
        """Without those who may come and go first: it errs on the short side."""
        bands = model.queue.bands
        ahead = bands[waiting.band].service_ahead(waiting)
        if any(queue.waiting for band, queue in bands.items() if band is not waiting.band):
            batch_share = self.limits.batch_share
            share = batch_share if waiting.band is Band.BATCH else 1.0 - batch_share
            ahead = min(ahead / share, sum(band.service for band in bands.values()))
        return model.pace.seconds(ahead, now_s) if ahead else 0.0

    def _remind(self, at_s: float, waiting: Waiting) -> None:
        self._offers += 1
        heapq.heappush(self._timers, (at_s, self._offers, waiting))
        if len(self._timers) > 2 * len(self._waiting) + _SPARE_TIMERS:
            held = self._waiting
            self._timers = [
                each for each in self._timers if held.get(each[2].request_id) is each[2]
            ]
            heapq.heapify(self._timers)

    def _model(self, lane: Lane) -> _Model:
        model = self._models.get(lane)
        if model is None:
            model = self._models[lane] = _Model(batch_share=self.limits.batch_share)
        return model


def _learn(model: _Model, ended: Ended, queued_s: float) -> None:
    if ended.usage is not None and ended.first_token_s is not None and ended.attempts == 1:
        uncached = ended.usage.prompt_tokens - ended.usage.cached_prompt_tokens
        model.reading.learn(uncached, ended.first_token_s - queued_s)
        model.writing.learn(ended.usage.output_tokens, ended.duration_s - ended.first_token_s)
