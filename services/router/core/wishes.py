"""What one request would take of its tenant's limits."""

from services.router.core.admission import output_tokens
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
    output_tokens: int  # at most
    field: str  # by which its caller asks for less output
    kv_cache: KvCache  # of the endpoints that serve it

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.output_tokens

    @property
    def blocks(self) -> int:
        return self.kv_cache.blocks_of(self.tokens)

    @property
    def counts_blocks(self) -> bool:
        return self.tenant.limits.kv_share > 0 and self.kv_cache.blocks > 0

    @property
    def most_blocks(self) -> int:
        """That its tenant may hold at once."""
        return int(self.tenant.limits.kv_share * self.kv_cache.blocks)


def wish_of(demand: Demand, tenant: Tenant, kv_cache: KvCache) -> Wish:
    """For one that writes something."""
    assert demand.output is not None, "it takes an engine's place"
    return Wish(
        tenant,
        Lane(demand.model, tenant.pool),
        demand.prompt.tokens,
        output_tokens(demand, tenant),
        demand.output.field,
        kv_cache,
    )
