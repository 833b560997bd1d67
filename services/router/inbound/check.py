"""Envoy asks: may this request go, and where to? Once per request, so this path is kept lean.

Decode, decide, write down, answer, without an await, so each decision sees the whole effect of the
one before. A span only when the trace is sampled. What has to wait is judged anew at its turn: its
tenant, its certificate or the endpoints may be others by then.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from services.router.core.admission import (
    Pool,
    TimeLimits,
    class_of,
    never,
    output_tokens,
    place,
)
from services.router.core.bands import band_of
from services.router.core.circuits import Circuits
from services.router.core.demands import Demand, InvalidDemand, WorkloadClass
from services.router.core.endpoints import Endpoints
from services.router.core.flow import FlowControl, Queueing
from services.router.core.hedging import Hedgeable, HedgePlan, Hedging, NotHedged, arranged
from services.router.core.inflight import Slot
from services.router.core.outliers import Outliers, most_ejected
from services.router.core.picking import Filter, Picker
from services.router.core.queue import Waiting
from services.router.core.requests import Decision, Requests
from services.router.core.saturation import Saturation
from services.router.core.tenants import CacheSalts, Caller, PolicyView, Tenant, Tenants
from services.router.core.verdicts import Admitted, Reason, Refused, Verdict
from services.router.inbound.answers import Answer, in_turn, let_go, refusal
from services.router.inbound.asked import Asked, Question, asked
from services.router.inbound.bodies import InvalidBody, demand_of
from services.router.inbound.line import Held, Line, Turn

_PRIORITIES = {  # lower runs first
    WorkloadClass.INTERACTIVE: "0",
    WorkloadClass.HIGH_RISK: "0",
    WorkloadClass.BATCH: "10",
}
# The least loaded of so many is nearly the least loaded of all (Mitzenmacher, The Power of Two
# Choices, 2001), and to look at a thousand would take milliseconds.

_COME_BACK_S = 1.0  # policy streams again within seconds of being back
_propagator = TraceContextTextMapPropagator()
_tracer = trace.get_tracer("evenflow.router")


@dataclass(frozen=True, slots=True)
class Mesh:
    """What a decision looks at, and where it is written down."""

    policy: PolicyView
    endpoints: Endpoints
    requests: Requests
    salts: CacheSalts
    circuits: Circuits
    revoked: Callable[[str], bool] = lambda _: False  # by the serial of a certificate
    line: Line = field(default_factory=lambda: Line(FlowControl(Saturation())))
    outliers: Outliers = field(default_factory=Outliers)
    hedging: Hedging = field(default_factory=lambda: Hedging(0.0))

    def __post_init__(self) -> None:
        self.requests.freed = self.line.freed


class Check:
    """`grace_s`: how long after its deadline a slot waits for the access log's word."""

    def __init__(
        self, mesh: Mesh, limits: TimeLimits, *, grace_s: float, clock: Callable[[], float]
    ) -> None:
        self._mesh = mesh
        self._picker = Picker(
            mesh.endpoints,
            mesh.requests.in_flight,
            mesh.requests.expectations,
            weights=mesh.requests.weights,
            filters=(Filter(mesh.circuits.open), Filter(mesh.outliers.out, most_ejected)),
        )
        self._limits = limits
        self._grace_s = grace_s
        self._clock = clock

    def __call__(self, from_envoy: Question) -> Answer | Held:
        now_s = self._clock()
        question = asked(from_envoy, self._is_known)
        span = _span(question) if question.trace()[1] else None
        judged = self._judge(question, now_s)
        request = _Request(question, span, now_s)
        if judged.queueing is not None:
            return self._hold(request, judged)
        return self._conclude(request, judged, self._clock())

    def _is_known(self, request_id: str) -> bool:
        return self._mesh.requests.knows(request_id) or self._mesh.line.flow.holds(request_id)

    def _judge(self, question: Asked, now_s: float) -> "_Judged":
        caller = self._caller(question, now_s)
        if isinstance(caller, Refused):
            return _Judged(None, None, caller)
        try:
            demand = demand_of(question.method, question.body)
            if demand is None:
                return _Judged(caller, None, None)
            return self._decide(question, caller, demand, now_s)
        except InvalidDemand as error:
            refused = Refused(Reason.FIELD_INVALID, str(error), error.field)
        except InvalidBody as error:
            refused = Refused(Reason.BODY_INVALID, str(error))
        return _Judged(caller, None, refused)

    def _caller(self, question: Asked, now_s: float) -> Caller | Refused:
        if question.serial and self._mesh.revoked(question.serial):
            return _CERTIFICATE_REVOKED
        tenants = self._mesh.policy.current(now_s)
        if tenants is None:
            return _POLICY_STALE
        return _owner(question, tenants) or _UNKNOWN_IDENTITY

    def _decide(self, question: Asked, caller: Caller, demand: Demand, now_s: float) -> "_Judged":
        remaining_s, tenant, pool = (
            question.remaining_s(),
            caller.tenant,
            self._pool(caller.tenant, now_s),
        )
        refused = never(demand, tenant, pool, remaining_s=remaining_s)
        waiting = offered = None
        if demand.output is not None and refused is None:  # counting tokens takes no engine's place
            flow = self._mesh.line.flow
            waiting = self._waiting(question, tenant, demand, now_s)
            pool = replace(pool, full=flow.full(waiting))
            if not flow.may_pass(waiting, now_s):
                offered = flow.offer(waiting, now_s)
        if isinstance(offered, Queueing):
            return _Judged(caller, demand, None, waiting, offered)
        verdict = refused or offered or self._place(demand, tenant, pool, remaining_s)
        return _Judged(caller, demand, verdict, waiting)

    def _place(
        self, demand: Demand, tenant: Tenant, pool: Pool, remaining_s: float | None
    ) -> Verdict:
        return place(demand, tenant, pool, remaining_s=remaining_s, limits=self._limits)

    def _pool(self, tenant: Tenant, now_s: float) -> Pool:
        return Pool(self._picker, now_s, self._mesh.salts.of(tenant))

    def _waiting(self, question: Asked, tenant: Tenant, demand: Demand, now_s: float) -> Waiting:
        workload_class = class_of(demand, tenant)
        band, limit_s = (
            band_of(workload_class),
            self._limits.of(workload_class, question.remaining_s()),
        )
        return Waiting(
            request_id=question.request_id,
            model=demand.model,
            tenant=tenant.id,
            weight=tenant.weight,
            band=band,
            prompt_tokens=demand.prompt.tokens,
            output_tokens=output_tokens(demand, tenant),
            since_s=now_s,
            deadline_s=now_s + limit_s,
            until_s=now_s + self._mesh.line.flow.limits.longest_s[band],
        )

    def _hedge(
        self, demand: Demand | None, verdict: Verdict | None, now_s: float
    ) -> HedgePlan | NotHedged | None:
        if not isinstance(verdict, Admitted) or demand is None:
            return None
        asked = Hedgeable(
            model=demand.model,
            workload_class=verdict.workload_class,
            uncached_prompt_tokens=verdict.prompt_tokens - verdict.candidates[0].cached_tokens,
            output_tokens=verdict.output_tokens,
            endpoints=verdict.endpoints,
            timeout_s=verdict.timeout_s,
        )
        is_free, saturation = self._mesh.endpoints.is_free, self._mesh.line.flow.saturation

        def begins_at_once(address: str) -> bool:
            return is_free(address) and saturation.takes(address, verdict.tokens, now_s)

        return self._mesh.hedging.decide(asked, begins_at_once, now_s)

    def _hold(self, request: "_Request", judged: "_Judged") -> Held:
        assert judged.waiting is not None, "what waits was offered"
        # It may wait for minutes, and a body be large.
        request = replace(request, question=replace(request.question, body=b""))
        turn = Turn(
            go=partial(self._again, request, judged),
            refuse=partial(self._refuse, request, judged),
            leave=partial(self._leave, request, judged),
        )
        return self._mesh.line.hold(judged.waiting, turn)

    def _again(self, request: "_Request", before: "_Judged", now_s: float) -> Answer:
        """Its turn has come."""
        demand, waiting = before.demand, before.waiting
        assert demand is not None, "what waits was read"
        assert waiting is not None, "what waits was offered"
        caller = self._caller(request.question, now_s)
        if isinstance(caller, Refused):
            return self._refuse(request, before, caller, now_s)
        remaining_s = waiting.deadline_s - now_s
        tenant, pool = caller.tenant, self._pool(caller.tenant, now_s)
        pool = replace(pool, full=self._mesh.line.flow.full(waiting))
        refused = never(demand, tenant, pool, remaining_s=remaining_s)
        verdict = refused or self._place(demand, tenant, pool, remaining_s)
        return self._conclude(request, replace(before, caller=caller, verdict=verdict), now_s)

    def _refuse(
        self, request: "_Request", before: "_Judged", refused: Refused, now_s: float
    ) -> Answer:
        return self._conclude(request, replace(before, verdict=refused), now_s)

    def _leave(self, request: "_Request", judged: "_Judged", now_s: float) -> None:
        decision = _decision(request, judged, now_s)
        _end(request.span, decision, None)
        self._mesh.requests.note(decision)

    def _conclude(self, request: "_Request", judged: "_Judged", now_s: float) -> Answer:
        verdict = judged.verdict
        judged = replace(judged, hedge=self._hedge(judged.demand, verdict, now_s))
        decision = _decision(request, judged, now_s)
        if isinstance(verdict, Admitted):
            answer = self._let_go(judged, verdict, decision, now_s)
        else:
            self._mesh.requests.note(decision)
            refused = verdict if isinstance(verdict, Refused) else None
            answer = (
                refusal(refused, decision.request_id) if refused else let_go(_identity(decision))
            )
        _end(request.span, decision, verdict)
        return answer

    def _let_go(
        self, judged: "_Judged", admitted: Admitted, decision: Decision, now_s: float
    ) -> Answer:
        mesh = self._mesh
        slot = _slot(admitted, now_s + admitted.timeout_s + self._grace_s)
        mesh.requests.admit(decision, slot)
        mesh.hedging.let_go(decision.request_id, decision.plan, now_s)
        mesh.circuits.sent(slot.address, now_s)
        if judged.waiting is not None:
            mesh.line.flow.sent(judged.waiting, slot.address, now_s)
        assert judged.caller is not None, "nobody unknown is admitted"
        tenant = judged.caller.tenant
        orders = _orders(admitted, tenant, mesh.salts.of(tenant))
        return let_go((*_identity(decision), *orders, *_route(admitted, decision.plan)))


@dataclass(frozen=True, slots=True)
class _Request:
    question: Asked
    span: trace.Span | None
    since_s: float


@dataclass(frozen=True, slots=True)
class _Judged:
    caller: Caller | None
    demand: Demand | None
    verdict: Verdict | None  # None: the router itself answers this method, or it waits
    waiting: Waiting | None = None  # None: the flow control has no say
    queueing: Queueing | None = None  # None: it did not wait
    hedge: HedgePlan | NotHedged | None = None  # None: refused, or for the router


_POLICY_STALE = Refused(
    Reason.POLICY_STALE,
    "the router has not heard from policy for too long",
    retry_after_s=_COME_BACK_S,
)
_CERTIFICATE_REVOKED = Refused(
    Reason.CERTIFICATE_REVOKED, "the certificate is revoked; connect with another"
)
_UNKNOWN_IDENTITY = Refused(Reason.UNKNOWN_IDENTITY, "no tenant owns this certificate or API key")


def _owner(question: Asked, tenants: Tenants) -> Caller | None:
    if question.spiffe_id is not None:
        return tenants.by_spiffe_id(question.spiffe_id)
    return tenants.by_api_key(question.api_key) if question.api_key else None


def _decision(request: _Request, judged: _Judged, now_s: float) -> Decision:
    question, verdict, caller, demand = (
        request.question,
        judged.verdict,
        judged.caller,
        judged.demand,
    )
    refused = verdict if isinstance(verdict, Refused) else None
    admitted = verdict if isinstance(verdict, Admitted) else None
    return Decision(
        request_id=question.request_id,
        method=question.method,
        received_unix_s=question.received_unix_s,
        trace_id=question.trace()[0],
        tenant=caller.tenant.id if caller else "",
        workload=caller.workload if caller else "",
        model=demand.model if demand else "",
        workload_class=_class(judged),
        candidates=verdict.candidates if verdict else (),
        others=verdict.others if verdict else {},
        refusal=refused.reason if refused else None,
        queue_wait_s=None if refused else now_s - request.since_s,
        prompt_tokens=demand.prompt.tokens if demand else 0,
        output_tokens=admitted.output_tokens if admitted else 0,
        expected_cached_tokens=admitted.candidates[0].cached_tokens if admitted else 0,
        for_runtime=verdict is not None or judged.queueing is not None,
        queueing=judged.queueing,
        hedge=judged.hedge,
    )


def _class(judged: _Judged) -> WorkloadClass | None:
    if judged.verdict is not None and judged.verdict.workload_class is not None:
        return judged.verdict.workload_class
    if judged.waiting is None or judged.demand is None or judged.caller is None:
        return None
    return class_of(judged.demand, judged.caller.tenant)


def _slot(admitted: Admitted, expires_at_s: float) -> Slot:
    first = admitted.candidates[0]
    return Slot(
        first.address,
        admitted.tokens,
        expires_at_s,
        prefill_tokens=admitted.prompt_tokens - first.cached_tokens,
        decode_tokens=admitted.output_tokens,
        prefix=admitted.prefix,
    )


def _identity(decision: Decision) -> Iterable[tuple[str, str]]:
    yield "x-evenflow-request-id", decision.request_id
    yield "x-evenflow-tenant", decision.tenant
    yield "x-evenflow-workload", decision.workload


def _orders(admitted: Admitted, tenant: Tenant, salt: str) -> Iterable[tuple[str, str]]:
    """What the runtime is told, and Envoy when to end it."""
    yield "x-evenflow-workload-class", admitted.workload_class.value
    yield "x-evenflow-priority", _PRIORITIES[admitted.workload_class]
    yield "x-evenflow-cache-salt", salt
    yield "x-evenflow-max-context-tokens", str(tenant.max_context_tokens)
    yield "x-evenflow-max-output-tokens", str(tenant.max_output_tokens)
    if tenant.pool:
        yield "x-evenflow-pool", tenant.pool
    timeout_ms = max(1, int(admitted.timeout_s * 1000))
    yield "grpc-timeout", f"{timeout_ms}m"
    yield "x-envoy-upstream-rq-timeout-ms", str(timeout_ms)  # Envoy ends what a runtime does not


def _route(admitted: Admitted, plan: HedgePlan | None) -> Iterable[tuple[str, str]]:
    """Where Envoy sends it, and when a second time."""
    yield "x-evenflow-endpoints", in_turn(arranged(admitted.endpoints, plan))
    if plan is not None:
        yield "x-envoy-upstream-rq-per-try-timeout-ms", str(round(plan.delay_s * 1000))
        yield "x-envoy-hedge-on-per-try-timeout", "true"
        # Two arms at most: a hedge or a retry. A late second arm would have a third sent.
        yield "x-envoy-max-retries", "1"


def _span(question: Asked) -> trace.Span:
    parent = _propagator.extract({"traceparent": question.traceparent or ""})
    return _tracer.start_span("evenflow.router.check", context=parent, kind=trace.SpanKind.SERVER)


def _end(span: trace.Span | None, decision: Decision, verdict: Verdict | None) -> None:
    if span is not None:
        span.set_attributes({**_attributes(decision, verdict), **_queue_attributes(decision)})
        span.end()


def _queue_attributes(decision: Decision) -> Mapping[str, str | int | float]:
    queueing = decision.queueing
    if queueing is None:
        return {}
    return {
        "evenflow.queue.reason": queueing.reason,
        "evenflow.queue.band": queueing.band.value,
        "evenflow.queue.ahead": queueing.ahead,
        "evenflow.queue.counter": queueing.counter,
        "evenflow.queue.predicted_s": queueing.predicted_s,
    }


def _attributes(decision: Decision, verdict: Verdict | None) -> Mapping[str, str]:
    attributes = {
        "gen_ai.request.model": decision.model,
        "evenflow.request_id": decision.request_id,
        "evenflow.tenant": decision.tenant,
        "evenflow.workload_class": decision.workload_class.value if decision.workload_class else "",
        "evenflow.endpoint": verdict.endpoints[0] if isinstance(verdict, Admitted) else "",
        "evenflow.refusal_reason": decision.refusal.value if decision.refusal else "",
        "evenflow.hedge.delay_ms": f"{decision.plan.delay_s * 1000:.0f}" if decision.plan else "",
        "evenflow.hedge.not_hedged": (
            decision.hedge.value if isinstance(decision.hedge, NotHedged) else ""
        ),
    }
    return {key: value for key, value in attributes.items() if value}
