"""What was made of one question, and how it is written down: as a Decision, and on its span."""

from collections.abc import Mapping
from dataclasses import dataclass

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from services.router.core.admission import class_of
from services.router.core.demands import Demand, WorkloadClass
from services.router.core.flow import Queueing
from services.router.core.hedging import HedgePlan, NotHedged
from services.router.core.inflight import Slot
from services.router.core.ladder import Climb
from services.router.core.queue import Waiting
from services.router.core.requests import Decision
from services.router.core.rungs import UNDEGRADED
from services.router.core.spending import Lacking, Reservation
from services.router.core.tenants import Caller
from services.router.core.value import value
from services.router.core.verdicts import Admitted, Refused, Verdict
from services.router.core.wishes import Wish
from services.router.degradations import degradations_text
from services.router.inbound.asked import Asked
from services.router.inbound.caching import NOT_ASKED, Consulted

_propagator = TraceContextTextMapPropagator()
_tracer = trace.get_tracer("evenflow.router")


@value
class Request:
    question: Asked
    span: trace.Span | None
    since_s: float


@dataclass(slots=True)
class Judged:
    """Filled in step by step. Its request's own, so that no step need make another."""

    caller: Caller | None
    demand: Demand | None  # as it was asked
    verdict: Verdict | None  # None: the router itself answers this method, or it waits
    climb: Climb | None = None  # what the ladder made of the demand; None: not looked at
    waiting: Waiting | None = None  # None: the flow control has no say
    queueing: Queueing | None = None  # None: it did not wait
    hedge: HedgePlan | NotHedged | None = None  # None: refused, or for the router
    consulted: Consulted = NOT_ASKED
    wish: Wish | None = None  # of its tenant's limits; None: there are none, or it takes no place
    reservation: Reservation | None = None  # None: refused, or no budget counts it
    lacking: Lacking | None = None  # it may be paid for once policy has answered


def decision_of(request: Request, judged: Judged, now_s: float) -> Decision:
    question, verdict, caller = request.question, judged.verdict, judged.caller
    demand = judged.demand
    refused = verdict if isinstance(verdict, Refused) else None
    admitted = verdict if isinstance(verdict, Admitted) else None
    return Decision(
        request_id=question.request_id,
        method=question.method,
        received_unix_s=question.received_unix_s,
        trace_id=question.trace_id,
        tenant=caller.tenant.id if caller else "",
        workload=caller.workload if caller else "",
        model=demand.model if demand else "",
        workload_class=_class(judged),
        candidates=verdict.candidates if verdict else (),
        others=verdict.others if verdict else {},
        refusal=refused.reason if refused else None,
        queue_wait_s=None if refused else now_s - request.since_s,
        prompt_tokens=_prompt_tokens(demand, admitted),
        output_tokens=admitted.output_tokens if admitted else 0,
        expected_cached_tokens=admitted.candidates[0].cached_tokens if admitted else 0,
        for_runtime=verdict is not None or judged.queueing is not None,
        queueing=judged.queueing,
        hedge=judged.hedge,
        answering=admitted.model if admitted else "",
        estimate=0 if demand is None or demand.prompt.exact else demand.prompt.tokens,
        degraded=verdict.degraded if verdict else UNDEGRADED,
        resumed_tokens=(demand.resumed_tokens or 0) if demand else 0,
        cache="" if refused else judged.consulted.outcome,
        reservation=judged.reservation.number if admitted and judged.reservation else 0,
    )


def slot_of(admitted: Admitted, expires_at_s: float) -> Slot:
    first = admitted.candidates[0]
    return Slot(
        first.address,
        admitted.tokens,
        expires_at_s,
        prefill_tokens=admitted.prompt_tokens - first.cached_tokens,
        decode_tokens=admitted.output_tokens,
        prefix=admitted.prefix,
    )


def begun(question: Asked) -> trace.Span | None:
    """A span for a trace that is sampled."""
    if not question.sampled:
        return None
    parent = _propagator.extract({"traceparent": question.traceparent or ""})
    return _tracer.start_span("evenflow.router.check", context=parent, kind=trace.SpanKind.SERVER)


def ended(span: trace.Span | None, decision: Decision, verdict: Verdict | None) -> None:
    if span is not None:
        span.set_attributes({**_attributes(decision, verdict), **_queue_attributes(decision)})
        span.end()


def _class(judged: Judged) -> WorkloadClass | None:
    if judged.verdict is not None and judged.verdict.workload_class is not None:
        return judged.verdict.workload_class
    if judged.waiting is None or judged.demand is None or judged.caller is None:
        return None
    return class_of(judged.demand, judged.caller.tenant)


def _prompt_tokens(demand: Demand | None, admitted: Admitted | None) -> int:
    if admitted is not None:
        return admitted.prompt_tokens
    return demand.prompt.tokens if demand is not None else 0


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
    plan, hedge = decision.plan, decision.hedge
    attributes = {
        "gen_ai.request.model": decision.model,
        "evenflow.request_id": decision.request_id,
        "evenflow.tenant": decision.tenant,
        "evenflow.workload_class": decision.workload_class.value if decision.workload_class else "",
        "evenflow.endpoint": verdict.endpoints[0] if isinstance(verdict, Admitted) else "",
        "evenflow.refusal_reason": decision.refusal.value if decision.refusal else "",
        "evenflow.hedge.delay_ms": f"{plan.delay_s * 1000:.0f}" if plan else "",
        "evenflow.hedge.not_hedged": hedge.value if isinstance(hedge, NotHedged) else "",
        "evenflow.cache": decision.cache,
        "evenflow.degradations": degradations_text(decision.degraded.taken),
        "evenflow.reservation": str(decision.reservation or ""),
    }
    return {key: value for key, value in attributes.items() if value}
