"""What a tenant's limits cost for each request, in memory: asked, charged, ended and corrected."""

import time
from statistics import median

from benchmarks.ended import ended
from services.router.core.demands import Demand, Output, Prompt, WorkloadClass
from services.router.core.eligibility import KvCache
from services.router.core.endings import Usage
from services.router.core.limits import Limiting
from services.router.core.tenants import Limits, Tenant
from services.router.core.wishes import wish_of

UNDER_WAY = 100
_USAGE = Usage(190, 0, 120)
_KV_CACHE = KvCache(10**6, 16)
_DEMAND = Demand("large", None, Prompt(200, exact=False), Output(300, "max_tokens"))
_EVERY_S = 0.005  # 200 requests a second, so each has a tick's entry to itself or shares it
_LIMITS = Limits(
    requests_per_minute=10**6, tokens_per_minute=10**9, concurrent_requests=10**4, kv_share=0.9
)
_TENANT = Tenant(
    id="acme",
    spiffe_ids=(),
    api_keys=(),
    models=frozenset({"*"}),
    workload_classes=frozenset(WorkloadClass),
    default_workload_class=WorkloadClass.BATCH,
    max_context_tokens=0,
    max_output_tokens=0,
    limits=_LIMITS,
)


def limits_us(rounds: int) -> float:
    """The median of one request of a tenant with all limits, whose last minute is full."""
    limiting, costs = Limiting(), []
    limiting.limits_of = lambda _: _LIMITS
    for number in range(20_000 + rounds):
        now_s = number * _EVERY_S
        over = ended(f"r{number - UNDER_WAY}", usage=_USAGE)
        begun = time.perf_counter()
        wish = wish_of(_DEMAND, _TENANT, _KV_CACHE)
        assert limiting.too_often(_TENANT, now_s) is None
        assert limiting.refused(wish, now_s) is None
        limiting.let_go(f"r{number}", _TENANT, wish, now_s)
        limiting.ended(over.request_id, over, now_s)
        costs.append(time.perf_counter() - begun)
    return median(costs[-rounds:]) * 1e6
