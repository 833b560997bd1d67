"""One router's decisions among so many endpoints and tenants, without network or processes.

The real Check over all that it looks at: prefix index, queue, ladder, open circuits, ejected
endpoints, hedges, response cache. Its clock moves only as it is told to, so that what is open or
ejected stays so.
"""

import asyncio
import itertools
import time
from collections import deque
from dataclasses import dataclass, field

from benchmarks import frames
from benchmarks.ended import ended
from evenflow.inference.v1 import inference_service_pb2 as pb
from services.router.core.admission import TimeLimits
from services.router.core.circuits import OPENS_AFTER, Circuits
from services.router.core.circuits import Outcome as Sent
from services.router.core.demands import WorkloadClass
from services.router.core.endings import Usage
from services.router.core.endpoints import Endpoints, ModelState, Readiness, RuntimeState
from services.router.core.flow import FlowControl
from services.router.core.hedging import Hedging
from services.router.core.outliers import IN_A_ROW, Outliers
from services.router.core.outliers import Answer as Told
from services.router.core.prefixes import block_keys
from services.router.core.queue_limits import QueueLimits
from services.router.core.requests import Requests
from services.router.core.rungs import FallbackModel, Refuse, SmallerContext, SmallerOutput, Trigger
from services.router.core.salts import CacheSalts, SaltSecret
from services.router.core.saturation import Saturation
from services.router.core.tenants import Caller, ClassRules, PolicyView, Tenant, Tenants
from services.router.inbound.answers import Answer
from services.router.inbound.asked import Question
from services.router.inbound.auditing import Auditing, no_auditing
from services.router.inbound.bodies import demand_of
from services.router.inbound.caching import Caching
from services.router.inbound.check import Check
from services.router.inbound.lessons import Lessons
from services.router.inbound.line import Held, Line
from services.router.inbound.mesh import Mesh

SLOTS = 16  # of each endpoint
BEGINNING_BYTES = 1000  # of a prompt, which all of its tenant have in common
PROMPTS_HELD = 100  # by each endpoint
BATCH_EVERY = 4  # tenants
UNWELL_EVERY = 100  # endpoints: one has an open circuit, another is ejected
STEP_S = 1e-5  # from one question to the next
SHARED_EVERY = 16  # questions: one is of the tenant whose beginning every endpoint has
_EVERYWHERE = "everywhere"
_FIRST_TOKENS = 200  # enough to hedge by
_OK = 200
_USAGE = Usage(270, 0, 100)
_METHOD = "/evenflow.inference.v1.InferenceService/Generate"
_MODEL = "large"
_FOREVER_S = 1e9
_LIMITS = TimeLimits(default_s=dict.fromkeys(WorkloadClass, 60.0), longest_s=3600.0)
_LADDER = (
    SmallerOutput(Trigger.SATURATED, 128),
    SmallerContext(Trigger.SATURATED, 1024),
    FallbackModel(Trigger.MODEL_UNHEALTHY, "small"),
    Refuse(Trigger.DEADLINE_AT_RISK),
)
_RULES = ClassRules(_LADDER, resume=True, cache_ttl_s=60.0)


class SlowClock(asyncio.SelectorEventLoop):
    now_s = 0.0

    def time(self) -> float:
        return self.now_s


@dataclass(slots=True)
class Costs:
    """Processor time of each decision, in microseconds."""

    straight: list[float] = field(default_factory=list)  # it goes at once
    shared: list[float] = field(default_factory=list)  # likewise; every endpoint has its beginning
    queued: list[float] = field(default_factory=list)  # it has to wait
    dispatched: list[float] = field(default_factory=list)  # a slot is free, and somebody's turn


class Crowd:
    """To be made in a SlowClock that runs."""

    def __init__(self, endpoints: int, tenants: int, audit: Auditing) -> None:
        self._audit = audit
        self._loop = asyncio.get_running_loop()
        self._addresses = [f"10.0.{at // 250}.{at % 250 + 1}:9101" for at in range(endpoints)]
        self._names = [f"tenant-{at}" for at in range(tenants)]
        self._salts = CacheSalts(SaltSecret(b"0123456789abcdef"))
        self._mesh = self._made()
        mesh = self._mesh
        self._lessons = Lessons(mesh.circuits, mesh.outliers, mesh.hedging, mesh.experience)
        self._check = Check(mesh, _LIMITS, grace_s=5.0, clock=self._loop.time)
        self._numbers = itertools.count()
        self._running: deque[str] = deque()
        self.costs = Costs()
        for at, address in enumerate(self._addresses):
            self._saw(address)
            self._fill_cache(at, address)
            self._make_unwell(at, address)
        for _ in range(_FIRST_TOKENS):
            self._mesh.hedging.first_tokens.learn(_MODEL, 100, 0.1, self._loop.time())

    def fill(self) -> None:
        """Until somebody of each tenant waits; every endpoint has by then all that it takes."""
        for at in itertools.count():
            if len(self._mesh.line.flow) >= len(self._names):
                return
            self._ask(at)

    async def turn_over(self, rounds: int) -> None:
        """Slots become free one after the other, and for each that goes another comes to wait."""
        self.costs.queued.clear()  # these had fewer before them
        tenants = itertools.count()
        while len(self.costs.dispatched) < rounds:
            await self._end(self._running.popleft())
            while len(self._mesh.line.flow) < len(self._names):
                self._ask(next(tenants))

    async def _end(self, request_id: str) -> None:
        decision = self._mesh.requests.find(request_id).decision
        assert decision is not None, "it was let go"
        end, running = (
            ended(request_id, usage=_USAGE, endpoint=decision.order[0], began_unix_s=1000.0),
            len(self._running),
        )
        began_ns = time.thread_time_ns()
        self._mesh.requests.end(end)
        await asyncio.sleep(0)  # the queue is looked at
        took_us = (time.thread_time_ns() - began_ns) / 1000
        sent = len(self._running) - running
        if sent:
            self.costs.dispatched.append(took_us / sent)
        self._lessons.learn(decision, end, is_paid=False)

    def _ask(self, at: int) -> None:
        """Of one tenant after the other; between them, some with what all endpoints have."""
        shared = at % SHARED_EVERY == 0
        question = self._question(_EVERYWHERE if shared else self._names[at % len(self._names)])
        self._loop.now_s += STEP_S  # type: ignore[attr-defined] # a SlowClock
        began_ns = time.thread_time_ns()
        answer = self._check(question)
        if isinstance(answer, Answer):
            answer.encoded()
        took_us = (time.thread_time_ns() - began_ns) / 1000
        if isinstance(answer, Held):
            answer.reply = self._let_go
            self.costs.queued.append(took_us)
        else:
            self._let_go(answer)
            (self.costs.shared if shared else self.costs.straight).append(took_us)

    def _let_go(self, answer: Answer) -> None:
        headers = dict(answer.headers)
        assert answer.status == _OK, headers
        answer.encoded()
        self._running.append(headers["x-evenflow-request-id"])

    def _made(self) -> Mesh:
        now_s = self._loop.time()
        everyone = [_tenant(each) for each in (_EVERYWHERE, *self._names)]
        policy = PolicyView(stale_after_s=_FOREVER_S)
        policy.replaced(Tenants("1", everyone, {WorkloadClass.INTERACTIVE: _RULES}), now_s)
        circuits, outliers = Circuits(), Outliers()

        def shut(address: str, at_s: float) -> bool:
            return circuits.is_open(address, at_s) or bool(outliers.ejected(address, at_s))

        many = 4 * len(self._names)
        limits = QueueLimits(total=many, of_a_tenant=many)
        return Mesh(
            policy,
            Endpoints(self._addresses),
            Requests(),
            self._salts,
            circuits,
            line=Line(FlowControl(Saturation(shut, stale_after_s=_FOREVER_S), limits)),
            outliers=outliers,
            hedging=Hedging(0.05),
            caching=Caching(self._salts, most_bytes=64 << 20, default_ttl_s=60.0),
            audit=self._audit,
        )

    def _saw(self, address: str) -> None:
        self._mesh.endpoints.saw(address, _STATE)
        self._mesh.line.saw(self._mesh.endpoints.get(address))
        kv_tokens = _STATE.kv_blocks_total * _STATE.kv_block_tokens
        self._mesh.requests.expectations.resize(address, kv_tokens=kv_tokens)

    def _fill_cache(self, at: int, address: str) -> None:
        names = [
            self._names[(at * PROMPTS_HELD + n) % len(self._names)] for n in range(PROMPTS_HELD)
        ]
        for name in (_EVERYWHERE, *names):
            demand = demand_of(_METHOD, self._question(name).body)
            assert demand is not None, "it generates"
            whose = _tenant(name)
            salt = self._salts.of(Caller(whose, "web"), whose.default_workload_class)
            keys = block_keys(demand.prompt.start, salt, _MODEL)
            self._mesh.requests.expectations.sent(address, keys)

    def _make_unwell(self, at: int, address: str) -> None:
        now_s = self._loop.time()
        if at % UNWELL_EVERY == 1:
            for _ in range(OPENS_AFTER):
                lost = Sent(address, succeeded=False)
                self._mesh.circuits.learn(lost, began_s=now_s, now_s=now_s)
        if at % UNWELL_EVERY == 2:
            for _ in range(IN_A_ROW):
                told = Told(address, failed=True, read_tokens=100, first_token_s=None)
                everyone = self._addresses
                self._mesh.outliers.learn(told, pool=everyone, began_s=now_s, now_s=now_s)

    def _question(self, tenant: str) -> Question:
        number = next(self._numbers)
        beginning = (f"You work for {tenant}. " * BEGINNING_BYTES)[:BEGINNING_BYTES]
        request = pb.GenerateRequest(model=_MODEL)
        request.chat.messages.add(role=pb.ROLE_SYSTEM, content=beginning)
        request.chat.messages.add(role=pb.ROLE_USER, content=f"question {number}")
        request.sampling.max_output_tokens = 256
        request.sampling.temperature = 0.0
        headers = {
            "x-evenflow-listener": "mesh",
            "x-evenflow-peer": f"spiffe://evenflow.local/tenant/{tenant}/web",
            "x-evenflow-received": "1000.000000",
            "x-request-id": f"request-{number}",
            "grpc-timeout": "60S",
            "traceparent": f"00-{number + 1:032x}-{1:016x}-00",
        }
        return Question(_METHOD, headers, frames.grpc_message(request.SerializeToString()))


def measured(endpoints: int, tenants: int, *, rounds: int, audit: Auditing | None = None) -> Costs:
    """`audit` None: nothing is written down."""

    async def scenario() -> Costs:
        crowd = Crowd(endpoints, tenants, audit or no_auditing())
        crowd.fill()
        await crowd.turn_over(rounds)
        return crowd.costs

    with asyncio.Runner(loop_factory=SlowClock) as runner:
        return runner.run(scenario())


def _tenant(name: str) -> Tenant:
    number = int(name.rpartition("-")[2]) if name != _EVERYWHERE else 0
    is_batch = number % BATCH_EVERY == BATCH_EVERY - 1
    return Tenant(
        id=name,
        spiffe_ids=(f"spiffe://evenflow.local/tenant/{name}/*",),
        api_keys=(),
        models=frozenset({"*"}),
        workload_classes=frozenset(WorkloadClass),
        default_workload_class=WorkloadClass.BATCH if is_batch else WorkloadClass.INTERACTIVE,
        max_context_tokens=8192,
        max_output_tokens=1024,
    )


_STATE = RuntimeState(
    instance_id="first",
    engine="simulated",
    models=tuple(ModelState(each, "1", Readiness.READY, 8192) for each in (_MODEL, "small")),
    kv_blocks_free=4096,
    kv_blocks_total=4096,
    kv_block_tokens=16,
    max_running=SLOTS,
)
