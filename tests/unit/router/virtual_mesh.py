"""Routers, engines and tenants in virtual time, to see what flow control does to whole loads.

The routers are the real ones' cores. Engines batch continuously, report at most every 100 ms, and
an end is told up to 100 ms late, as Envoy does. Nothing else takes time.
"""

import heapq
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

from services.router.core.bands import Band
from services.router.core.endings import Usage
from services.router.core.endpoints import Endpoint
from services.router.core.exchange import Peer, PeerWord, Telling
from services.router.core.fairness import service
from services.router.core.flow import FlowControl
from services.router.core.queue import Waiting
from services.router.core.queue_limits import QueueLimits
from services.router.core.saturation import Saturation
from services.router.core.verdicts import Refused
from tests.unit.router.values import SMALL, model, state
from tests.unit.router.values import ended as told

REPORT_S = 0.1
TOLD_WITHIN_S = 0.1
LOOK_S = 0.05
EXCHANGE_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one tenant sends through each of `routers`: so many at once, or so many a second."""

    tenant: str
    routers: Sequence[int] = (0,)
    at_once: int = 0
    per_s: float = 0.0
    band: Band = Band.INTERACTIVE
    weight: int = 1
    prompt_tokens: int = 64
    least_tokens: int = 32
    most_tokens: int = 96
    timeout_s: float = 1e6
    from_s: float = 0.0
    until_s: float = math.inf


@dataclass(slots=True)
class Call:
    waiting: Waiting
    load: Load
    router: int
    tokens: int
    sent_s: float
    to_read: int = 0
    written: int = 0
    first_s: float | None = None
    over: str = ""  # how it ended
    over_s: float = 0.0


@dataclass(slots=True)
class Engine:
    """Continuous batching: services/runtime/core/simulation.py without its KV cache."""

    address: str
    max_running: int = 64
    step_s: float = 0.08
    step_per_sequence_s: float = 0.0001
    prefill_per_token_s: float = 0.0001
    chunk: int = 512
    waiting: list[Call] = field(default_factory=list)
    running: list[Call] = field(default_factory=list)
    steps: bool = False
    reading: list[tuple[Call, int]] = field(default_factory=list)

    def begin(self) -> float | None:
        self.waiting.sort(key=lambda call: (call.waiting.band is Band.BATCH, call.sent_s))
        while self.waiting and len(self.running) < self.max_running:
            self.running.append(self.waiting.pop(0))
        if not self.running:
            return None
        left, self.reading = self.chunk, []
        for call in self.running:
            if call.to_read and left:
                part = min(left, call.to_read)
                self.reading.append((call, part))
                left -= part
        writing = sum(not call.to_read for call in self.running)
        read = self.chunk - left
        return self.step_s + self.step_per_sequence_s * writing + self.prefill_per_token_s * read

    def finish(self) -> tuple[list[Call], list[Call]]:
        """Who has a token now, and who of these has the last one."""
        for call, part in self.reading:
            call.to_read -= part
        wrote = [call for call in self.running if not call.to_read]
        for call in wrote:
            call.written += 1
        ended = [call for call in wrote if call.written >= call.tokens]
        self.running = [call for call in self.running if call.written < call.tokens]
        return wrote, ended


class VirtualMesh:
    def __init__(
        self,
        *loads: Load,
        routers: int = 1,
        engines: Sequence[Engine] | None = None,
        limits: QueueLimits | None = None,
        fifo: bool = False,
        seed: int = 1,
    ) -> None:
        self.now_s = 0.0
        self.calls: list[Call] = []
        self.refused: dict[str, list[str]] = {}
        self.given: dict[str, float] = {}
        self.samples: list[dict[str, float]] = []
        self.longest_queue = 0
        self._rng = random.Random(seed)  # noqa: S311 - a load must repeat
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._ids = count()
        self.engines = engines or [Engine("a:1"), Engine("b:1")]
        self.flows = [FlowControl(Saturation(), limits, lets_all_go=fifo) for _ in range(routers)]
        self._load = [dict.fromkeys((each.address for each in self.engines), 0) for _ in self.flows]
        self._held: dict[str, Call] = {}
        self._reported: dict[str, tuple[float, tuple[int, int]]] = {}
        self.connected = True
        self._peers: dict[tuple[int, int], tuple[Telling, Peer]] = {}
        for flow in self.flows:
            flow.saturation.routers = routers
        for each in self.engines:
            self._report(each)
        self.connect()
        for load in loads:
            self._begin(load)
        self.every(LOOK_S, self._look_all)
        self.every(EXCHANGE_S, self._exchange)
        self.every(0.2, self._report_all)
        self.every(0.1, self._sample)

    def at(self, at_s: float, what: Callable[[], object]) -> None:
        heapq.heappush(self._events, (at_s, next(self._ids), what))

    def every(self, seconds: float, what: Callable[[], object]) -> None:
        def again() -> None:
            what()
            self.at(self.now_s + seconds, again)

        self.at(seconds, again)

    def run(self, for_s: float) -> "VirtualMesh":
        while self._events and self._events[0][0] <= for_s:
            self.now_s, _, what = heapq.heappop(self._events)
            what()
        self.now_s = for_s
        return self

    def connect(self) -> None:
        """Peers' streams open."""
        self.connected = True
        for one in range(len(self.flows)):
            for other in range(len(self.flows)):
                if one != other:
                    before = self._peers.get((one, other))
                    telling = Telling(self.flows[other].queues)
                    self._peers[one, other] = telling, before[1] if before else Peer()

    def cut(self) -> None:
        """Peers lose sight of each other."""
        self.connected = False
        for (one, _), (_, peer) in self._peers.items():
            for change in peer.lost(self.now_s):
                self.flows[one].elsewhere(change, weight=1)

    def ttft_s(self, tenant: str, share: float, *, from_s: float = 0.0) -> float:
        waited = sorted(
            (call.first_s if call.first_s is not None else math.inf) - call.waiting.since_s
            for call in self.calls
            if call.load.tenant == tenant and from_s <= call.waiting.since_s < self.now_s - 5.0
        )
        return waited[min(len(waited) - 1, int(len(waited) * share))]

    def served(self, tenant: str, from_s: float, to_s: float) -> float:
        return self.samples[min(int(to_s * 10), len(self.samples)) - 1].get(
            tenant, 0.0
        ) - self.samples[int(from_s * 10)].get(tenant, 0.0)

    def _begin(self, load: Load) -> None:
        def send_and_plan() -> None:
            if self.now_s < load.until_s:
                self._ask(load, load.routers[next(turn) % len(load.routers)])
                self.at(self.now_s + self._rng.expovariate(load.per_s), send_and_plan)

        turn = count()
        if load.per_s:
            self.at(load.from_s + self._rng.expovariate(load.per_s), send_and_plan)
        for router in load.routers if load.at_once else ():
            for _ in range(load.at_once):
                self.at(load.from_s, lambda router=router: self._ask(load, router))  # type: ignore[misc]

    def _ask(self, load: Load, router: int) -> None:
        flow, tokens = self.flows[router], self._rng.randint(load.least_tokens, load.most_tokens)
        waiting = Waiting(
            request_id=f"r{next(self._ids)}",
            lane=SMALL,
            tenant=load.tenant,
            weight=load.weight,
            band=load.band,
            prompt_tokens=load.prompt_tokens,
            output_tokens=tokens,
            since_s=self.now_s,
            deadline_s=self.now_s + load.timeout_s,
            until_s=self.now_s + flow.limits.longest_s[load.band],
        )
        call = Call(waiting, load, router, tokens, self.now_s, to_read=load.prompt_tokens)
        self.calls.append(call)
        if flow.may_pass(waiting, self.now_s):
            self._send(call)
            return
        offered = flow.offer(waiting, self.now_s)
        if isinstance(offered, Refused):
            self._refuse(call, offered)
        else:
            self._held[waiting.request_id] = call
            self.longest_queue = max(self.longest_queue, len(flow))

    def _refuse(self, call: Call, refused: Refused) -> None:
        call.over, call.over_s = refused.reason.value, self.now_s
        self.refused.setdefault(call.load.tenant, []).append(call.over)
        self._next_of(call, after_s=1.0)

    def _next_of(self, call: Call, *, after_s: float = 0.0) -> None:
        if call.load.at_once and self.now_s < call.load.until_s:
            self.at(self.now_s + after_s, lambda: self._ask(call.load, call.router))

    def _look_all(self) -> None:
        for at in range(len(self.flows)):
            self._look(at)

    def _report_all(self) -> None:
        for each in self.engines:
            self._report(each)

    def _look(self, router: int) -> None:
        flow = self.flows[router]
        for waiting, refused in flow.expired(self.now_s):
            self._refuse(self._held.pop(waiting.request_id), refused)
        while (first := flow.next(self.now_s)) is not None:
            self._send(self._held.pop(first.request_id))

    def _send(self, call: Call) -> None:
        flow, load = self.flows[call.router], self._load[call.router]
        full = flow.vacancies(call.waiting).full
        engine = min(
            self.engines,
            key=lambda each: (each.address in full, load[each.address], each.address),
        )
        load[engine.address] += call.waiting.tokens
        call.sent_s = self.now_s
        flow.sent(call.waiting, engine.address, self.now_s)
        engine.waiting.append(call)
        self.at(call.waiting.deadline_s, lambda: self._cut(call, engine))
        self._changed(engine)
        if not engine.steps:
            self._step(engine)

    def _cut(self, call: Call, engine: Engine) -> None:
        """Its deadline is over."""
        if not call.over:
            each = engine.running if call in engine.running else engine.waiting
            each.remove(call)
            self._ended(call, engine, "deadline")

    def _step(self, engine: Engine) -> None:
        took_s = engine.begin()
        engine.steps = took_s is not None
        if took_s is not None:
            self.at(self.now_s + took_s, lambda: self._stepped(engine))

    def _stepped(self, engine: Engine) -> None:
        wrote, ended = engine.finish()
        for call in wrote:
            tenant = call.load.tenant
            if call.first_s is None:
                call.first_s = self.now_s
                given = service(call.load.prompt_tokens, 0)
                self.given[tenant] = self.given.get(tenant, 0.0) + given
            self.given[tenant] = self.given.get(tenant, 0.0) + service(0, 1)
        for call in ended:
            self._ended(call, engine, "complete")
        self._step(engine)

    def _ended(self, call: Call, engine: Engine, how: str) -> None:
        call.over, call.over_s = how, self.now_s
        told_s = self.now_s + self._rng.uniform(0.0, TOLD_WITHIN_S)
        self.at(told_s, lambda: self._told(call, engine))
        self._next_of(call)
        self._changed(engine)

    def _told(self, call: Call, engine: Engine) -> None:
        self._load[call.router][engine.address] -= call.waiting.tokens
        ended = told(
            call.waiting.request_id,
            endpoint=engine.address,
            grpc_code=0 if call.over == "complete" else 4,
            duration_s=call.over_s - call.waiting.since_s,
            first_token_s=None if call.first_s is None else call.first_s - call.waiting.since_s,
            usage=Usage(call.load.prompt_tokens, 0, call.written) if call.first_s else None,
        )
        queued_s = call.sent_s - call.waiting.since_s
        self.flows[call.router].freed(call.waiting.request_id, ended, queued_s)
        self._look(call.router)

    def _changed(self, engine: Engine) -> None:
        """Reports, but not twice within REPORT_S."""
        at_s, _ = self._reported[engine.address]
        if at_s > self.now_s:
            return
        due_s = max(self.now_s, at_s + REPORT_S)
        self._reported[engine.address] = due_s, (-1, -1)
        self.at(due_s, lambda: self._report(engine))

    def _report(self, engine: Engine) -> None:
        counts = len(engine.running), len(engine.waiting)
        self._reported[engine.address] = self.now_s, counts
        known = state(model(), max_running=engine.max_running, running=counts[0], waiting=counts[1])
        for at, flow in enumerate(self.flows):
            flow.saturation.saw(Endpoint(engine.address, known, reachable=True), self.now_s)
            if self._events:
                self._look(at)

    def _exchange(self) -> None:
        if not self.connected:
            return
        for (one, other), (telling, peer) in self._peers.items():
            word = PeerWord(f"router{other}", telling.accounts())
            for change in peer.heard(word, self.now_s):
                self.flows[one].elsewhere(change, weight=1)
            self._look(one)

    def _sample(self) -> None:
        self.samples.append(dict(self.given))
