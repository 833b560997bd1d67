"""The headers of a request that is let go: what the runtime is told, and Envoy where to go."""

from collections.abc import Iterable

from services.router.core.budgets import Charge
from services.router.core.demands import WorkloadClass
from services.router.core.hedging import HedgePlan, arranged
from services.router.core.requests import Decision
from services.router.core.spending import Reservation
from services.router.core.tenants import Tenant
from services.router.core.verdicts import Admitted
from services.router.degradations import orders as degraded_orders
from services.router.inbound.answers import in_turn

_PRIORITIES = {  # lower runs first
    WorkloadClass.INTERACTIVE: "0",
    WorkloadClass.HIGH_RISK: "0",
    WorkloadClass.BATCH: "10",
}


def identity(decision: Decision) -> Iterable[tuple[str, str]]:
    yield "x-evenflow-request-id", decision.request_id
    yield "x-evenflow-tenant", decision.tenant
    yield "x-evenflow-workload", decision.workload


def orders(
    decision: Decision, admitted: Admitted, tenant: Tenant, salt: str
) -> Iterable[tuple[str, str]]:
    """For the runtime, and for Envoy when to end it."""
    yield "x-evenflow-workload-class", admitted.workload_class.value
    yield "x-evenflow-priority", _PRIORITIES[admitted.workload_class]
    yield "x-evenflow-cache-salt", salt
    yield "x-evenflow-max-context-tokens", str(tenant.max_context_tokens)
    yield "x-evenflow-max-output-tokens", str(tenant.max_output_tokens)
    if pool := tenant.pool_for(admitted.workload_class):
        yield "x-evenflow-pool", pool
    if admitted.resumable:
        yield "x-evenflow-resumable", "1"
    if admitted.degraded.taken:
        yield from degraded_orders(admitted, asked_model=decision.model)
    timeout_ms = max(1, int(admitted.timeout_s * 1000))
    yield "grpc-timeout", f"{timeout_ms}m"
    yield "x-envoy-upstream-rq-timeout-ms", str(timeout_ms)  # Envoy ends what a runtime does not


def route(
    admitted: Admitted, plan: HedgePlan | None, paid: Reservation | None = None
) -> Iterable[tuple[str, str]]:
    """Where Envoy sends it, and when a second time."""
    yield "x-evenflow-endpoints", in_turn(arranged(admitted.endpoints, plan))
    if plan is not None:
        yield "x-envoy-upstream-rq-per-try-timeout-ms", str(round(plan.delay_s * 1000))
        yield "x-envoy-hedge-on-per-try-timeout", "true"
    if paid is not None:
        yield "x-envoy-max-retries", str(paid.attempts - 1)
    elif plan is not None:
        # Two arms at most: a hedge or a retry. A late second arm would have a third sent.
        yield "x-envoy-max-retries", "1"


def reservation(router: str, paid: Reservation | None) -> Iterable[tuple[str, str]]:
    """What the runtime may use, and whom it reports that to policy for."""
    if paid is not None:
        yield "x-evenflow-reservation", f"{router}.{paid.number}/{paid.attempts}"
        yield "x-evenflow-charges", ",".join(map(_charge, paid.charges))


def _charge(charge: Charge) -> str:
    (budget, start), rates = charge.account, charge.rates
    numbers = (charge.reserved, rates.prompt, rates.cached_prompt, rates.output, int(charge.hard))
    return f"{budget}@{start}={':'.join(map(str, numbers))}"
