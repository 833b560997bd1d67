"""What one request would take of its tenant's limits."""

from services.router.core.admission import output_tokens, pool_of
from services.router.core.demands import Demand
from services.router.core.eligibility import KvCache
from services.router.core.lanes import Lane
from services.router.core.tenants import Tenant
from services.router.core.value import value


@value
class Wish:
    tenant: Tenant
    lane: Lane
    prompt_tokens: int
    tokens: int  # prompt, and output at most
    field: str  # by which its caller asks for less output
    blocks: int  # of the KV cache of an endpoint that serves it; 0: nobody knows
    most_blocks: int  # that its tenant may hold at once there
    block_tokens: int


def wish_of(demand: Demand, tenant: Tenant, kv_cache: KvCache) -> Wish:
    """For one that writes something. `kv_cache`: of all endpoints that serve it together."""
    assert demand.output is not None, "it takes an engine's place"
    prompt_tokens = demand.prompt.tokens
    tokens, share = prompt_tokens + output_tokens(demand, tenant), tenant.limits.kv_share
    return Wish(
        tenant,
        Lane(demand.model, pool_of(demand, tenant)),
        prompt_tokens,
        tokens,
        demand.output.field,
        kv_cache.blocks_of(tokens),
        int(share * kv_cache.blocks) if share else kv_cache.blocks,
        kv_cache.block_tokens,
    )
