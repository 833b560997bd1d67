"""Reads what a tenant may use at once and in a minute: its `limits`. docs/tenant-limits.md."""

from services.policy.core import fields
from services.policy.core.fields import Notes
from services.policy.core.nodes import Node
from services.policy.core.tenants import NO_LIMITS, Limits

_OPTIONAL = ("requests_per_minute", "tokens_per_minute", "concurrent_requests", "kv_share")
_MOST_REQUESTS = 1_000_000_000  # more than any mesh takes; a slip of the keyboard is not
_MOST_TOKENS = 1_000_000_000_000


def read_limits(node: Node | None, at: str, notes: Notes) -> Limits:
    if node is None:
        return NO_LIMITS
    found = fields.entries(node, at, notes, required=(), optional=_OPTIONAL)

    def whole(name: str, most: int) -> int:
        return fields.whole(found.get(name), f"{at}.{name}", notes, between=(0, most))

    return Limits(
        requests_per_minute=whole("requests_per_minute", _MOST_REQUESTS),
        tokens_per_minute=whole("tokens_per_minute", _MOST_TOKENS),
        concurrent_requests=whole("concurrent_requests", _MOST_REQUESTS),
        kv_share=fields.share(found.get("kv_share"), f"{at}.kv_share", notes),
    )
