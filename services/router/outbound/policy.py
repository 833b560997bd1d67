"""Follows policy's snapshots of the tenants."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from evenflow.policy.v1 import tenant_service_pb2 as pb
from evenflow.policy.v1.tenant_service_pb2_grpc import TenantServiceStub
from services.chassis.identity import TlsFiles, channel
from services.router.classes import WORKLOAD_CLASSES
from services.router.core.budgets import NO_PRICES, Prices
from services.router.core.demands import WorkloadClass
from services.router.core.tenants import (
    NO_LIMITS,
    ApiKey,
    ClassRules,
    InvalidSnapshot,
    Limits,
    PolicyView,
    Tenant,
    Tenants,
)
from services.router.outbound.budgets import are_known, budgets, prices
from services.router.outbound.ladders import ladder

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PolicyWord:
    version: str
    tenants: Sequence[Tenant] | None  # None: as before
    classes: Mapping[WorkloadClass, ClassRules] = field(default_factory=dict)
    prices: Prices = NO_PRICES


class Policy(Protocol):
    def words(self) -> AsyncGenerator[PolicyWord, None]:
        """A snapshot at once, one after each change, and a sign of life at least every 5 s.

        Raises grpc.aio.AioRpcError or OSError when policy can't be reached.
        """


class GrpcPolicy:
    def __init__(self, address: str, tls: TlsFiles) -> None:
        self._address = address
        self._tls = tls

    async def words(self) -> AsyncGenerator[PolicyWord, None]:
        async with channel(self._address, self._tls, server="policy") as opened:
            call = TenantServiceStub(opened).WatchTenants(pb.WatchTenantsRequest())
            version: str | None = None
            try:
                async for response in call:
                    yield word_of(response, again=response.version == version)
                    version = response.version
            finally:
                call.cancel()  # a no-op once the stream has ended


class PolicyFollower:
    """Keeps the view of the policy fresh; a snapshot that can't be right leaves the one before."""

    def __init__(self, view: PolicyView, clock: Callable[[], float]) -> None:
        self._view = view
        self._clock = clock

    async def follow(self, policy: Policy) -> None:
        """Until the stream ends or fails."""
        async with aclosing(policy.words()) as words:
            async for word in words:
                self._heard(word)

    def _heard(self, word: PolicyWord) -> None:
        if word.tenants is None:
            self._view.confirmed(self._clock())
            return
        try:
            tenants = Tenants(word.version, word.tenants, word.classes, prices=word.prices)
        except InvalidSnapshot as error:
            _log.error("policy.refused", version=word.version, problem=str(error))
            return
        if word.version != self._view.version:
            _log.info("policy.replaced", version=word.version, tenants=len(word.tenants))
        self._view.replaced(tenants, self._clock())


def word_of(response: pb.WatchTenantsResponse, *, again: bool) -> PolicyWord:
    if again and not response.tenants:
        return PolicyWord(response.version, None)
    known = [each for each in response.tenants if is_known(each)]
    if len(known) < len(response.tenants):
        _log.error("policy.unknown_tenants", left_out=len(response.tenants) - len(known))
    classes = {
        WORKLOAD_CLASSES[each.workload_class]: _rules(each)
        for each in response.classes
        if each.workload_class in WORKLOAD_CLASSES
    }
    pools = {
        WORKLOAD_CLASSES[each.workload_class]: each.pool
        for each in response.classes
        if each.workload_class in WORKLOAD_CLASSES and each.pool
    }
    return PolicyWord(
        response.version,
        tuple(_tenant(each, pools) for each in known),
        classes,
        prices(response.prices),
    )


def is_known(tenant: pb.Tenant) -> bool:
    """False: a newer policy says something of it that decides, and that this router can't take."""
    return tenant.default_workload_class in WORKLOAD_CLASSES and are_known(tenant.budgets)


def _tenant(tenant: pb.Tenant, class_pools: Mapping[WorkloadClass, str]) -> Tenant:
    return Tenant(
        id=tenant.id,
        spiffe_ids=tuple(tenant.spiffe_ids),
        api_keys=tuple(ApiKey(each.sha256, each.workload, each.id) for each in tenant.api_keys),
        models=frozenset(tenant.models),
        workload_classes=frozenset(
            WORKLOAD_CLASSES[each] for each in tenant.workload_classes if each in WORKLOAD_CLASSES
        ),
        default_workload_class=WORKLOAD_CLASSES[tenant.default_workload_class],
        max_context_tokens=tenant.max_context_tokens,
        max_output_tokens=tenant.max_output_tokens,
        weight=max(1, tenant.weight),
        pool=tenant.pool,
        class_pools=class_pools,
        limits=_limits(tenant.limits) if tenant.HasField("limits") else NO_LIMITS,
        budgets=budgets(tenant.id, tenant.budgets),
    )


def _limits(limits: pb.TenantLimits) -> Limits:
    read = Limits(
        requests_per_minute=limits.requests_per_minute,
        tokens_per_minute=limits.tokens_per_minute,
        concurrent_requests=limits.concurrent_requests,
        kv_share=limits.kv_share,
    )
    return NO_LIMITS if read == NO_LIMITS else read


def _rules(rules: pb.ClassRules) -> ClassRules:
    return ClassRules(
        ladder=ladder(rules.ladder),
        resume=rules.resume,
        cache_ttl_s=rules.cache_ttl.ToMilliseconds() / 1000,
    )
