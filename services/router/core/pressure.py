"""Which triggers of the degradation ladder hold for a request, by what the router knows now."""

from services.router.core.admission import Degrade, Pool
from services.router.core.demands import Demand, WorkloadClass
from services.router.core.endpoints import Endpoint
from services.router.core.ladder import Case, Climb, climbed
from services.router.core.paces import Paces
from services.router.core.rungs import Triggers
from services.router.core.tenants import Tenant, Tenants

_KV_NEARLY_FULL = 0.05  # of its blocks are free: what comes next waits for one that ends


def degrading(tenants: Tenants, tenant: Tenant, pool: Pool, paces: Paces) -> Degrade | None:
    """None: no class has a ladder."""
    if not tenants.has_ladders:
        return None

    def degrade(demand: Demand, workload_class: WorkloadClass, within_s: float) -> Climb:
        ladder = tenants.rules(workload_class).ladder
        if not ladder:
            return Climb(demand)
        known: dict[str, Triggers] = {}  # by model; a rung changes nothing about it

        def look(asked: Demand) -> Triggers:
            there = known.get(asked.model)
            if there is None:
                there = known[asked.model] = condition(asked.model, pool)
            if there.model_unhealthy or not _at_risk(asked, tenant, paces, within_s):
                return there
            return Triggers(there.saturated, deadline_at_risk=True)

        return climbed(demand, ladder, Case(tenant, workload_class, look))

    return degrade


def condition(model: str, pool: Pool) -> Triggers:
    """What holds for every request for a model: whether one can go, and whether it would wait."""
    usable = [each for each in pool.endpoints if not each.left_out(model)]
    closed = [each for each in usable if not pool.is_open(each.address)]
    if not closed:
        return Triggers(model_unhealthy=True)
    return Triggers(saturated=all(_is_full(each, pool) for each in closed))


def _is_full(endpoint: Endpoint, pool: Pool) -> bool:
    """By its own word, or by what was sent there, of which it may not have told yet."""
    state = endpoint.state
    assert state is not None, "who never spoke can't be used"
    if state.waiting > 0 or state.kv_blocks_free < _KV_NEARLY_FULL * state.kv_blocks_total:
        return True
    return 0 < state.max_running <= max(state.running, pool.load(endpoint.address).requests)


def _at_risk(demand: Demand, tenant: Tenant, paces: Paces, within_s: float) -> bool:
    """`within_s`: what is left until the deadline, the caller's or its class's."""
    at_most = demand.output.most(tenant.max_output_tokens) if demand.output else 0
    return paces.expected_s(demand.model, at_most_tokens=at_most) > within_s
