"""Which triggers of the degradation ladder hold for a request, by what the router knows now."""

from collections.abc import Callable, Sequence

from services.router.core.admission import Degrade
from services.router.core.demands import Demand, WorkloadClass
from services.router.core.flow import FlowControl
from services.router.core.ladder import Case, Climb, climbed
from services.router.core.paces import Paces
from services.router.core.queue import Waiting
from services.router.core.rungs import Triggers
from services.router.core.tenants import Tenant, Tenants
from services.router.core.value import value


@value
class Outlook:
    """What a request has before it, were it to go now."""

    triggers: Triggers  # save the deadline's and the budget's
    wait_s: float = 0.0  # in the queue, as predicted


def outlook(waiting: Waiting, endpoints: Sequence[str], flow: FlowControl, now_s: float) -> Outlook:
    """`endpoints`: any that could answer it, open circuits left out."""
    if not endpoints:
        return Outlook(Triggers(model_unhealthy=True))
    if flow.may_pass(waiting, now_s):
        return Outlook(Triggers())
    return Outlook(Triggers(saturated=True), flow.predicted_s(waiting, now_s))


def degrading(
    tenants: Tenants,
    tenant: Tenant,
    look_ahead: Callable[[Demand], Outlook],
    paces: Paces,
    *,
    budget_low: bool = False,
) -> Degrade | None:
    """None: no class has a ladder."""
    if not tenants.has_ladders:
        return None

    def degrade(demand: Demand, workload_class: WorkloadClass, within_s: float) -> Climb:
        ladder = tenants.rules(workload_class).ladder
        if not ladder:
            return Climb(demand)

        def look(asked: Demand) -> Triggers:
            ahead = look_ahead(asked)
            there = ahead.triggers
            at_risk = not there.model_unhealthy and _at_risk(
                asked, tenant, paces, within_s - ahead.wait_s
            )
            if not at_risk and not budget_low:
                return there
            return Triggers(there.saturated, at_risk, there.model_unhealthy, budget_low)

        return climbed(demand, ladder, Case(tenant, workload_class, look))

    return degrade


def _at_risk(demand: Demand, tenant: Tenant, paces: Paces, within_s: float) -> bool:
    """`within_s`: what is left until the deadline, the caller's or its class's."""
    at_most = demand.output.most(tenant.max_output_tokens) if demand.output else 0
    return paces.expected_s(demand.model, at_most_tokens=at_most) > within_s
