"""What a tenant is told whose limits hold a request back, and when it may come again.

When a minute has room again is known exactly, if nothing else comes. When a request ends is not, so
that is an estimate within bounds. What no wait would change names the field, and no time.
"""

from services.router.core.tenants import Tenant
from services.router.core.verdicts import Reason, Refused
from services.router.core.wishes import Wish

_SOONEST_S, _LATEST_S = 1.0, 30.0


def come_back_s(free_s: float) -> float:
    return min(max(free_s, _SOONEST_S), _LATEST_S)


def request_rate(tenant: Tenant, wait_s: float) -> Refused:
    most = tenant.limits.requests_per_minute
    return Refused(
        Reason.REQUEST_RATE_LIMIT,
        f"tenant {tenant.id} may send {most} requests a minute",
        retry_after_s=wait_s,
    )


def token_rate(wish: Wish, wait_s: float | None) -> Refused:
    """`wait_s` None: it is more than a minute has."""
    tenant, most = wish.tenant, wish.tenant.limits.tokens_per_minute
    return Refused(
        Reason.TOKEN_RATE_LIMIT,
        f"tenant {tenant.id} may use {most} tokens a minute,"
        f" prompt and output of this request may need {wish.tokens}",
        _to_mend(wish, most) if wait_s is None else None,
        wait_s,
    )


def too_many_at_once(tenant: Tenant, wait_s: float) -> Refused:
    most = tenant.limits.concurrent_requests
    return Refused(
        Reason.CONCURRENCY_LIMIT,
        f"tenant {tenant.id} may have {most} requests under way at once",
        retry_after_s=wait_s,
    )


def kv_limit(wish: Wish, wait_s: float | None) -> Refused:
    """`wait_s` None: it is more than its tenant may hold though it held nothing."""
    tenant, most = wish.tenant, wish.most_blocks
    return Refused(
        Reason.KV_LIMIT,
        f"tenant {tenant.id} may hold {most} KV blocks of this model at once,"
        f" prompt and output of this request may need {wish.blocks}",
        _to_mend(wish, most * wish.block_tokens) if wait_s is None else None,
        wait_s,
    )


def _to_mend(wish: Wish, most_tokens: int) -> str:
    """Less output would do, or the prompt alone is too long."""
    return wish.field if wish.prompt_tokens < most_tokens else "input"
