"""The requests that the router was asked about: their slots, why each went where it went, and what
is expected to be cached there since.

Memory is bounded: what runs is bounded by its deadlines, and of what is over the last ones stay.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field

from services.router.core.attempts import LostAttempt, LostAttempts
from services.router.core.demands import WorkloadClass
from services.router.core.endings import Ended
from services.router.core.expectations import Expectations
from services.router.core.flow import Queueing
from services.router.core.hedge_endings import resolved
from services.router.core.hedging import HedgePlan, NotHedged, arranged
from services.router.core.inflight import InFlight, Load, Slot
from services.router.core.picking import TRIED, Candidate, usable
from services.router.core.rungs import UNDEGRADED, Degraded
from services.router.core.value import value
from services.router.core.verdicts import Reason
from services.router.core.weights import Weights

KEPT = 10_000
_SAME_S = 2e-6  # Envoy tells of one beginning twice: to the microsecond, and the nanosecond


class UnknownRequest(LookupError):
    """Never seen here, or too long ago; nothing is known of it."""


@value
class Decision:
    """What the router said about one request, and what it knew of it then."""

    request_id: str
    method: str  # "/package.Service/Method"
    received_unix_s: float
    trace_id: str = ""
    tenant: str = ""
    workload: str = ""
    model: str = ""
    workload_class: WorkloadClass | None = None
    candidates: Sequence[Candidate] = ()
    others: Mapping[str, int] = field(default_factory=dict)  # how many more, by why
    refusal: Reason | None = None
    queue_wait_s: float | None = None  # None: refused
    prompt_tokens: int = 0
    output_tokens: int = 0
    expected_cached_tokens: int = 0
    resumed_tokens: int = 0  # of a stream that broke, which this one carries on
    for_runtime: bool = True  # False: the router itself answers, as for ListModels
    queueing: Queueing | None = None  # None: it did not wait
    hedge: HedgePlan | NotHedged | None = None  # None: refused, or for the router
    answering: str = ""  # the model that was picked to answer; empty: refused
    estimate: int = 0  # of the prompt's tokens, uncorrected; 0: they were counted
    degraded: Degraded = UNDEGRADED
    cache: str = ""  # what the response cache did: hit, miss, bypass; empty: nothing
    reservation: int = 0  # by which it is paid out of budgets; 0: none counts it

    @property
    def plan(self) -> HedgePlan | None:
        return self.hedge if isinstance(self.hedge, HedgePlan) else None

    @property
    def order(self) -> Sequence[str]:
        """Addresses as Envoy was told to try them."""
        return arranged(usable(self.candidates)[:TRIED], self.plan)


@value
class Request:
    decision: Decision | None  # None: the gateway refused it before it asked
    ended: Ended | None = None  # None: it has not, or its end was never reported


class Requests:
    """`freed` is told of each slot that is free again; None: nobody knows how its request ended.
    `lost` is told of each attempt that no end counts, of requests that are known here."""

    def __init__(self, *, kept: int = KEPT, weights: Weights | None = None) -> None:
        self.freed: Callable[[Decision, Ended | None], None] = lambda *_: None
        self.lost: Callable[[LostAttempt], None] = lambda _: None
        self._kept = kept
        self.weights = weights or Weights()
        self.in_flight = InFlight(self.weights)
        self.expectations = Expectations()
        self._running: dict[str, Decision] = {}  # those with a slot
        self._over: OrderedDict[str, Request] = OrderedDict()  # oldest first
        self._lost = LostAttempts(self.knows, kept=kept)

    def load(self, address: str) -> Load:
        return self.in_flight.load(address)

    def running(self) -> int:
        return len(self.in_flight)

    def knows(self, request_id: str) -> bool:
        return request_id in self._running or request_id in self._over

    def is_over(self, request_id: str, received_unix_s: float) -> bool:
        """Its end is known before it was judged: a caller who left at once, or while it waited.

        A slot for it would be freed by nobody. Another one of the same id began at another time.
        """
        over = self._over.get(request_id)
        if over is None or over.decision is not None or over.ended is None:
            return False
        return abs(over.ended.began_unix_s - received_unix_s) < _SAME_S

    def admit(self, decision: Decision, slot: Slot) -> None:
        """Its id must be unknown here."""
        self.in_flight.admit(decision.request_id, slot)
        self._running[decision.request_id] = decision
        self.expectations.sent(slot.address, slot.prefix.keys)

    def note(self, decision: Decision) -> None:
        """One that takes no slot: refused, or answered by the router."""
        self._keep(decision.request_id, Request(decision))

    def arm_sent(self, request_id: str, address: str) -> bool:
        """A second arm runs there: it weighs as much as the first, until the request has ended.

        Which of them lost is known only then. False: it has ended, had no plan, or is known.
        """
        decision = self._running.get(request_id)
        if decision is None or decision.plan is None:
            return False
        return self.in_flight.add_arm(request_id, address)

    def has_arm(self, request_id: str) -> bool:
        return self.in_flight.has_arm(request_id)

    def end(self, ended: Ended) -> Request | None:
        """Frees the slot and completes the record; None when its end is known already."""
        slot = self.in_flight.end(ended.request_id)
        if slot is not None and ended.usage is not None:
            self.expectations.came_true(slot.address, slot.prefix, ended.endpoint, ended.usage)
        decision = self._running.pop(ended.request_id, None)
        if decision is not None:
            self.freed(decision, ended)
        before = self._over.get(ended.request_id)
        if before is not None and before.ended is not None:
            return None
        if before is not None:
            decision = before.decision
        if decision is not None and decision.plan is not None:
            wait_s = decision.queue_wait_s or 0.0
            ended = resolved(ended, decision.plan, decision.order, queue_wait_s=wait_s)
        request = Request(decision, ended)
        self._keep(ended.request_id, request)
        return request

    def attempt(self, lost: LostAttempt) -> bool:
        """True if it is news of a request that is known here."""
        is_news = self._lost.hear(lost)
        if is_news:
            self.lost(lost)
        return is_news

    def claim(self, request_id: str) -> Sequence[LostAttempt]:
        """What was heard of it before it was known, once."""
        return self._lost.claim(request_id)

    def other_attempts(self, request_id: str) -> Sequence[LostAttempt]:
        """Those that its end does not count, by number."""
        return self._lost.of(request_id)

    def expire(self, now_s: float) -> Sequence[Request]:
        """Frees the slots of those whose end nobody reported in time."""
        return [self._give_up(each) for each in self.in_flight.expire(now_s)]

    def restarted(self, address: str) -> Sequence[Request]:
        """Frees the slots at a runtime that was started again; its cache is empty."""
        self.expectations.restarted(address)
        return [self._give_up(each) for each in self.in_flight.restarted(address)]

    def find(self, request_id: str) -> Request:
        running = self._running.get(request_id)
        if running is not None:
            return Request(running)
        try:
            return self._over[request_id]
        except KeyError:
            raise UnknownRequest(f"no request {request_id[:100]!r} is known") from None

    def _give_up(self, request_id: str) -> Request:
        request = Request(self._running.pop(request_id))
        if request.decision is not None:
            self.freed(request.decision, None)
        self._keep(request_id, request)
        return request

    def _keep(self, request_id: str, request: Request) -> None:
        self._over[request_id] = request
        while len(self._over) > self._kept:
            self._over.popitem(last=False)
