"""The requests that the router was asked about: their slots, and why each went where it went.

Memory is bounded: what runs is bounded by its deadlines, and of what is over the last ones stay.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from services.router.core.demands import WorkloadClass
from services.router.core.endings import Ended
from services.router.core.inflight import InFlight, Load, Slot
from services.router.core.picking import Candidate
from services.router.core.verdicts import Reason

KEPT = 10_000


class UnknownRequest(LookupError):
    """Never seen here, or too long ago; nothing is known of it."""


@dataclass(frozen=True, slots=True)
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
    refusal: Reason | None = None
    queue_wait_s: float | None = None  # None: refused
    prompt_tokens: int = 0
    output_tokens: int = 0
    resumed_tokens: int = 0  # of a stream that broke, which this one carries on
    for_runtime: bool = True  # False: the router itself answers, as for ListModels


@dataclass(frozen=True, slots=True)
class Request:
    decision: Decision | None  # None: the gateway refused it before it asked
    ended: Ended | None = None  # None: it has not, or its end was never reported


class Requests:
    def __init__(self, *, kept: int = KEPT) -> None:
        self._kept = kept
        self._in_flight = InFlight()
        self._running: dict[str, Decision] = {}  # those with a slot
        self._over: OrderedDict[str, Request] = OrderedDict()  # oldest first

    def load(self, address: str) -> Load:
        return self._in_flight.load(address)

    def running(self) -> int:
        return len(self._in_flight)

    def knows(self, request_id: str) -> bool:
        return request_id in self._running or request_id in self._over

    def admit(self, decision: Decision, slot: Slot) -> None:
        """Its id must be unknown here."""
        self._in_flight.admit(decision.request_id, slot)
        self._running[decision.request_id] = decision

    def note(self, decision: Decision) -> None:
        """One that takes no slot: refused, or answered by the router."""
        self._keep(decision.request_id, Request(decision))

    def end(self, ended: Ended) -> Request | None:
        """Frees the slot and completes the record; None when its end is known already."""
        self._in_flight.end(ended.request_id)
        decision = self._running.pop(ended.request_id, None)
        before = self._over.get(ended.request_id)
        if before is not None and before.ended is not None:
            return None
        if before is not None:
            decision = before.decision
        request = Request(decision, ended)
        self._keep(ended.request_id, request)
        return request

    def expire(self, now_s: float) -> Sequence[Request]:
        """Frees the slots of those whose end nobody reported in time."""
        return [self._give_up(each) for each in self._in_flight.expire(now_s)]

    def restarted(self, address: str) -> Sequence[Request]:
        """Frees the slots at a runtime that was started again."""
        return [self._give_up(each) for each in self._in_flight.restarted(address)]

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
        self._keep(request_id, request)
        return request

    def _keep(self, request_id: str, request: Request) -> None:
        self._over[request_id] = request
        while len(self._over) > self._kept:
            self._over.popitem(last=False)
