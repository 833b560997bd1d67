"""Envoy asks: may this request go, and where to? Once per request, so this path is kept lean.

Decode, decide, write down, answer, without an await, so each decision sees the whole effect of the
one before. A span only when the trace is sampled.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from services.router.core.admission import Pool, TimeLimits, decide
from services.router.core.circuits import Circuits
from services.router.core.demands import Demand, InvalidDemand, WorkloadClass
from services.router.core.endpoints import Endpoints
from services.router.core.inflight import Slot
from services.router.core.requests import Decision, Requests
from services.router.core.resuming import carried_on
from services.router.core.tenants import CacheSalts, Caller, PolicyView, Tenant, Tenants
from services.router.core.verdicts import Admitted, Reason, Refused, Verdict
from services.router.inbound.answers import Answer, let_go, refusal
from services.router.inbound.asked import Asked, Question, asked
from services.router.inbound.bodies import InvalidBody, demand_of

_PRIORITIES = {  # lower runs first
    WorkloadClass.INTERACTIVE: "0",
    WorkloadClass.HIGH_RISK: "0",
    WorkloadClass.BATCH: "10",
}
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


class Check:
    """`grace_s`: how long after its deadline a slot waits for the access log's word."""

    def __init__(
        self, mesh: Mesh, limits: TimeLimits, *, grace_s: float, clock: Callable[[], float]
    ) -> None:
        self._mesh = mesh
        self._limits = limits
        self._grace_s = grace_s
        self._clock = clock

    def __call__(self, from_envoy: Question) -> Answer:
        now_s = self._clock()
        question = asked(from_envoy, self._mesh.requests.knows)
        span = _span(question) if question.trace()[1] else None
        judged = self._judge(question, now_s)
        decision = _decision(question, judged, waited_s=self._clock() - now_s)
        if span is not None:
            span.set_attributes(_attributes(decision, judged.verdict))
            span.end()
        return self._answer(question, judged, decision, now_s)

    def _judge(self, question: Asked, now_s: float) -> "_Judged":
        if question.serial and self._mesh.revoked(question.serial):
            return _Judged(None, None, _CERTIFICATE_REVOKED)
        tenants = self._mesh.policy.current(now_s)
        if tenants is None:
            return _Judged(None, None, _POLICY_STALE)
        caller = _caller(question, tenants)
        if caller is None:
            return _Judged(None, None, _UNKNOWN_IDENTITY)
        try:
            demand = demand_of(question.method, question.body)
            if demand is None:
                return _Judged(caller, None, None)
            verdict = self._decide(question, caller, demand, now_s)
            if isinstance(verdict, Admitted):
                verdict = carried_on(verdict, demand, tenants.rules(verdict.workload_class))
            return _Judged(caller, demand, verdict)
        except InvalidDemand as error:
            refused = Refused(Reason.FIELD_INVALID, str(error), error.field)
        except InvalidBody as error:
            refused = Refused(Reason.BODY_INVALID, str(error))
        return _Judged(caller, None, refused)

    def _decide(self, question: Asked, caller: Caller, demand: Demand, now_s: float) -> Verdict:
        return decide(
            demand,
            caller.tenant,
            Pool(
                self._mesh.endpoints.all(),
                self._mesh.requests.load,
                lambda address: self._mesh.circuits.is_open(address, now_s),
            ),
            remaining_s=question.remaining_s(),
            limits=self._limits,
        )

    def _answer(
        self, question: Asked, judged: "_Judged", decision: Decision, now_s: float
    ) -> Answer:
        verdict = judged.verdict
        if isinstance(verdict, Refused):
            self._mesh.requests.note(decision)
            return refusal(verdict, question.request_id)
        if verdict is None:
            self._mesh.requests.note(decision)
            return let_go(_identity(decision))
        slot = Slot(verdict.endpoints[0], verdict.tokens, now_s + verdict.timeout_s + self._grace_s)
        self._mesh.requests.admit(decision, slot)
        self._mesh.circuits.sent(slot.address, now_s)
        assert judged.caller is not None, "nobody unknown is admitted"
        tenant = judged.caller.tenant
        headers = (*_identity(decision), *_orders(verdict, tenant, self._mesh.salts.of(tenant)))
        return let_go(headers)


@dataclass(frozen=True, slots=True)
class _Judged:
    caller: Caller | None
    demand: Demand | None
    verdict: Verdict | None  # None: the router itself answers this method


_POLICY_STALE = Refused(
    Reason.POLICY_STALE,
    "the router has not heard from policy for too long",
    retry_after_s=_COME_BACK_S,
)
_CERTIFICATE_REVOKED = Refused(
    Reason.CERTIFICATE_REVOKED, "the certificate is revoked; connect with another"
)
_UNKNOWN_IDENTITY = Refused(Reason.UNKNOWN_IDENTITY, "no tenant owns this certificate or API key")


def _caller(question: Asked, tenants: Tenants) -> Caller | None:
    if question.spiffe_id is not None:
        return tenants.by_spiffe_id(question.spiffe_id)
    return tenants.by_api_key(question.api_key) if question.api_key else None


def _decision(question: Asked, judged: _Judged, *, waited_s: float) -> Decision:
    verdict, caller, demand = judged.verdict, judged.caller, judged.demand
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
        workload_class=verdict.workload_class if verdict else None,
        candidates=verdict.candidates if verdict else (),
        refusal=refused.reason if refused else None,
        queue_wait_s=None if refused else waited_s,
        prompt_tokens=_prompt_tokens(demand, admitted),
        output_tokens=admitted.output_tokens if admitted else 0,
        resumed_tokens=(demand.resumed_tokens or 0) if demand else 0,
        for_runtime=verdict is not None,
    )


def _prompt_tokens(demand: Demand | None, admitted: Admitted | None) -> int:
    if admitted is not None:
        return admitted.prompt_tokens
    return demand.prompt.tokens if demand else 0


def _identity(decision: Decision) -> Iterable[tuple[str, str]]:
    yield "x-evenflow-request-id", decision.request_id
    yield "x-evenflow-tenant", decision.tenant
    yield "x-evenflow-workload", decision.workload


def _orders(admitted: Admitted, tenant: Tenant, salt: str) -> Iterable[tuple[str, str]]:
    """What the runtime is told, and Envoy where to go."""
    yield "x-evenflow-workload-class", admitted.workload_class.value
    yield "x-evenflow-priority", _PRIORITIES[admitted.workload_class]
    yield "x-evenflow-cache-salt", salt
    yield "x-evenflow-max-context-tokens", str(tenant.max_context_tokens)
    yield "x-evenflow-max-output-tokens", str(tenant.max_output_tokens)
    if admitted.resumable:
        yield "x-evenflow-resumable", "1"
    timeout_ms = max(1, int(admitted.timeout_s * 1000))
    yield "grpc-timeout", f"{timeout_ms}m"
    yield "x-envoy-upstream-rq-timeout-ms", str(timeout_ms)  # Envoy ends what a runtime does not
    yield "x-evenflow-endpoints", ",".join(admitted.endpoints)


def _span(question: Asked) -> trace.Span:
    parent = _propagator.extract({"traceparent": question.traceparent or ""})
    return _tracer.start_span("evenflow.router.check", context=parent, kind=trace.SpanKind.SERVER)


def _attributes(decision: Decision, verdict: Verdict | None) -> Mapping[str, str]:
    attributes = {
        "gen_ai.request.model": decision.model,
        "evenflow.request_id": decision.request_id,
        "evenflow.tenant": decision.tenant,
        "evenflow.workload_class": decision.workload_class.value if decision.workload_class else "",
        "evenflow.endpoint": verdict.endpoints[0] if isinstance(verdict, Admitted) else "",
        "evenflow.refusal_reason": decision.refusal.value if decision.refusal else "",
    }
    return {key: value for key, value in attributes.items() if value}
