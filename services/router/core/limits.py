"""Holds tenants to their limits: requests and tokens in a minute, requests and KV blocks at once.

Asked before a request may queue and again at its turn, charged when it is let go. Both arms of a
hedge, and retries, are one request, and what they used is charged as the runtimes tell of it. What
other routers let go counts too (limit_words.py). Nothing is kept of tenants without any limit.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from services.router.core.attempts import KEPT, LostAttempt
from services.router.core.endings import Ended, Usage
from services.router.core.lanes import Lane
from services.router.core.limit_refusals import (
    come_back_s,
    kv_limit,
    request_rate,
    token_rate,
    too_many_at_once,
)
from services.router.core.sliding import Charge, SlidingMinute
from services.router.core.tenants import NO_LIMITS, Limits, Tenant
from services.router.core.value import value
from services.router.core.verdicts import Refused
from services.router.core.wishes import Wish

_LEARNED = 0.2  # of how long a tenant's requests take, by the last one


@dataclass(slots=True)
class Taken:
    """What a tenant took here in one lane; the first two are totals since the process began."""

    requests: int = 0
    tokens: int = 0  # as corrected
    running: int = 0
    blocks: int = 0


@value
class Elsewhere:
    """What changed at another router."""

    tenant: str
    lane: Lane
    change: Taken


@dataclass(slots=True)
class Account:
    """One tenant."""

    requests: SlidingMinute = field(default_factory=SlidingMinute)
    tokens: SlidingMinute = field(default_factory=SlidingMinute)
    running: dict[str, "Running"] = field(default_factory=dict)  # the oldest first
    running_elsewhere: int = 0
    blocks: dict[Lane, int] = field(default_factory=dict)  # over all routers
    usual_s: float = 0.0  # that its requests take


@dataclass(slots=True)
class Running:
    """One that was let go; its tokens may be corrected after its end."""

    tenant: str
    lane: Lane
    tokens: int  # as charged
    blocks: int
    since_s: float
    charge: Charge
    lost_tokens: int = 0  # of attempts that its end does not count
    settled: bool = False  # `tokens` are what it used


class Limiting:
    """Touched between awaits only. `limits_of` a tenant, as policy says now."""

    def __init__(self) -> None:
        self.limits_of: Callable[[str], Limits] = lambda _: NO_LIMITS
        self.accounts: dict[str, Account] = {}
        self.taken: dict[tuple[str, Lane], tuple[int, Taken]] = {}  # with marks
        self.mark = 0  # of the last change of `taken`; the last changed comes last
        self._running: dict[str, Running] = {}
        self._over: OrderedDict[str, Running] = OrderedDict()

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._running or request_id in self._over

    def too_often(self, tenant: Tenant, now_s: float) -> Refused | None:
        """Whatever it asks for."""
        most = tenant.limits.requests_per_minute
        account = self.accounts.get(tenant.id) if most else None
        if account is None or account.requests.fits(1, most, now_s):
            return None
        return request_rate(tenant, account.requests.wait_s(1, most, now_s))

    def refused(self, wish: Wish, now_s: float) -> Refused | None:
        """For what it asks for; what waiting would not change comes first."""
        account = self.account(wish.tenant.id)
        return (
            _never(wish)
            or _too_many_tokens(wish, account.tokens, now_s)
            or _too_many_at_once(wish, account, now_s)
            or _too_many_blocks(wish, account, now_s)
        )

    def let_go(self, request_id: str, tenant: Tenant, wish: Wish | None, now_s: float) -> None:
        """`wish` None: it takes no engine's place, an answer that is given again among them."""
        limits = tenant.limits
        if limits is NO_LIMITS:
            return
        account = self.account(tenant.id)
        account.requests.add(1, limits.requests_per_minute, now_s)
        if wish is None:
            self._changed(tenant.id, Lane("", tenant.pool)).requests += 1
            return
        charge = account.tokens.add(wish.tokens, limits.tokens_per_minute, now_s)
        running = Running(tenant.id, wish.lane, wish.tokens, wish.blocks, now_s, charge)
        account.running[request_id] = self._running[request_id] = running
        account.blocks[wish.lane] = account.blocks.get(wish.lane, 0) + wish.blocks
        taken = self._changed(tenant.id, wish.lane)
        taken.requests += 1
        taken.tokens += wish.tokens
        taken.running += 1
        taken.blocks += wish.blocks

    def ended(self, request_id: str, ended: Ended | None, now_s: float) -> None:
        """None: nobody knows how. What it used may be told later, by `lost`."""
        running = self._running.pop(request_id, None)
        if running is None:
            return
        account, took_s = self.accounts[running.tenant], now_s - running.since_s
        del account.running[request_id]
        account.blocks[running.lane] -= running.blocks
        account.usual_s += (_LEARNED if account.usual_s else 1.0) * (took_s - account.usual_s)
        taken = self._changed(running.tenant, running.lane)
        taken.running -= 1
        taken.blocks -= running.blocks
        self._over[request_id] = running
        if len(self._over) > KEPT:
            self._over.popitem(last=False)
        if ended is not None and ended.usage is not None:
            self._settle(running, _tokens(ended.usage) + running.lost_tokens, now_s)
        elif running.lost_tokens or (ended is not None and not ended.attempts):
            self._settle(running, running.lost_tokens, now_s)

    def lost(self, attempt: LostAttempt, now_s: float) -> None:
        """What an attempt used that its request's end does not count."""
        running, used = self._running.get(attempt.request_id), _tokens(attempt.usage)
        if running is not None:
            running.lost_tokens += used
            return
        over = self._over.get(attempt.request_id)
        if over is not None:
            self._settle(over, used + (over.tokens if over.settled else 0), now_s)

    def elsewhere(self, told: Elsewhere, now_s: float) -> None:
        """Another router let some go, or some ended there."""
        account, limits = self.account(told.tenant), self.limits_of(told.tenant)
        change = told.change
        if change.requests > 0:
            account.requests.owe(change.requests, limits.requests_per_minute, now_s)
        if change.tokens > 0:
            account.tokens.owe(change.tokens, limits.tokens_per_minute, now_s)
        elif change.tokens < 0:
            account.tokens.give_back(-change.tokens, limits.tokens_per_minute, now_s)
        account.running_elsewhere += change.running
        account.blocks[told.lane] = account.blocks.get(told.lane, 0) + change.blocks

    def account(self, tenant_id: str) -> Account:
        account = self.accounts.get(tenant_id)
        if account is None:
            account = self.accounts[tenant_id] = Account()
        return account

    def _settle(self, running: Running, used: int, now_s: float) -> None:
        limit = self.limits_of(running.tenant).tokens_per_minute
        minute, more = self.accounts[running.tenant].tokens, used - running.tokens
        if more > 0:
            minute.owe(more, limit, now_s)
        elif more < 0:
            minute.give_back(-more, limit, now_s, of=running.charge)
        running.tokens, running.settled = used, True
        self._changed(running.tenant, running.lane).tokens += more

    def _changed(self, tenant_id: str, lane: Lane) -> Taken:
        self.mark += 1
        key = (tenant_id, lane)
        known = self.taken.pop(key, None)
        taken = Taken() if known is None else known[1]
        self.taken[key] = self.mark, taken
        return taken


def _never(wish: Wish) -> Refused | None:
    limits = wish.tenant.limits
    if 0 < limits.tokens_per_minute < wish.tokens:
        return token_rate(wish, None)
    return kv_limit(wish, None) if limits.kv_share and wish.blocks > wish.most_blocks else None


def _too_many_tokens(wish: Wish, minute: SlidingMinute, now_s: float) -> Refused | None:
    most = wish.tenant.limits.tokens_per_minute
    if not most or minute.fits(wish.tokens, most, now_s):
        return None
    return token_rate(wish, minute.wait_s(wish.tokens, most, now_s))


def _too_many_at_once(wish: Wish, account: Account, now_s: float) -> Refused | None:
    most = wish.tenant.limits.concurrent_requests
    above = len(account.running) + account.running_elsewhere + 1 - most
    if not most or above <= 0:
        return None
    return too_many_at_once(wish.tenant, _free_s(account, above, _one, now_s))


def _too_many_blocks(wish: Wish, account: Account, now_s: float) -> Refused | None:
    if not wish.blocks or not wish.tenant.limits.kv_share:
        return None
    missing = account.blocks.get(wish.lane, 0) + wish.blocks - wish.most_blocks
    if missing <= 0:
        return None
    return kv_limit(wish, _free_s(account, missing, _blocks_in(wish.lane), now_s))


def _free_s(account: Account, missing: int, part: Callable[[Running], int], now_s: float) -> float:
    """When so much may be free, if requests take as long as they usually do."""
    for each in account.running.values():
        missing -= part(each)
        if missing <= 0:
            return come_back_s(each.since_s + account.usual_s - now_s)
    return come_back_s(account.usual_s)


def _one(_: Running) -> int:
    return 1


def _blocks_in(lane: Lane) -> Callable[[Running], int]:
    return lambda running: running.blocks if running.lane == lane else 0


def _tokens(usage: Usage) -> int:
    return usage.prompt_tokens + usage.output_tokens
