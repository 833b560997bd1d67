"""Which triggers of the degradation ladder hold for a request, by what the router knows now."""

from collections.abc import Sequence

from services.router.core.admission import Degrade, Pool
from services.router.core.demands import Demand, WorkloadClass
from services.router.core.endpoints import Endpoint
from services.router.core.ladder import Case, Climb, climbed
from services.router.core.paces import Paces
from services.router.core.picking import usable
from services.router.core.rungs import Triggers
from services.router.core.tenants import Tenant, Tenants

_KV_NEARLY_FULL = 0.05  # of its blocks are free: what comes next waits for one that ends


def degrading(tenants: Tenants, tenant: Tenant, pool: Pool, paces: Paces) -> Degrade | None:
    """None: no class has a ladder."""
    if not tenants.has_ladders:
        return None

    def degrade(demand: Demand, workload_class: WorkloadClass, within_s: float) -> Climb:
        def look(asked: Demand) -> Triggers:
            return triggers(asked, tenant, pool, paces, within_s=within_s)

        ladder = tenants.rules(workload_class).ladder
        return climbed(demand, ladder, Case(tenant, workload_class, look))

    return degrade


def triggers(
    demand: Demand, tenant: Tenant, pool: Pool, paces: Paces, *, within_s: float
) -> Triggers:
    """`within_s`: what is left until the deadline, the caller's or its class's."""
    addresses = usable(pool.candidates(demand.model))
    if all(pool.is_open(address) for address in addresses):  # or there are none
        return Triggers(model_unhealthy=True)
    at_most = demand.output.most(tenant.max_output_tokens) if demand.output else 0
    expected_s = paces.expected_s(demand.model, at_most_tokens=at_most)
    return Triggers(
        saturated=saturated(pool, addresses),
        deadline_at_risk=expected_s > within_s,
    )


def saturated(pool: Pool, addresses: Sequence[str]) -> bool:
    """Every one of the endpoints has all the work that it can do at once."""
    wanted = frozenset(addresses)
    return all(_is_full(each, pool) for each in pool.endpoints if each.address in wanted)


def _is_full(endpoint: Endpoint, pool: Pool) -> bool:
    """By its own word, or by what was sent there, of which it may not have told yet."""
    state = endpoint.state
    assert state is not None, "who never spoke can't be used"
    if state.waiting > 0 or state.kv_blocks_free < _KV_NEARLY_FULL * state.kv_blocks_total:
        return True
    return 0 < state.max_running <= max(state.running, pool.load(endpoint.address).requests)
