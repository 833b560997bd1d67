"""Streams the policy to every router: at once, on change, and in silence as a sign of life."""

from collections.abc import AsyncIterator
from functools import partial

import grpc
from google.protobuf.duration_pb2 import Duration

from evenflow.inference.v1 import workload_class_pb2
from evenflow.policy.v1 import tenant_service_pb2 as pb
from evenflow.policy.v1 import tenant_service_pb2_grpc as pb_grpc
from services.chassis.callers import AllowedCallers
from services.policy.core.keys import Keys
from services.policy.core.tenants import (
    NO_LIMITS,
    Budget,
    ClassRules,
    Limits,
    Policy,
    Price,
    Rung,
    Step,
    Tenant,
    Trigger,
    Unit,
    Window,
    WorkloadClass,
)
from services.policy.inbound.changes import Changes
from services.policy.inbound.snapshots import FileSnapshot
from services.policy.served import Served

SERVICE: str = pb.DESCRIPTOR.services_by_name["TenantService"].full_name
CALLERS: AllowedCallers = {f"/{SERVICE}/": frozenset({"router", "operator"})}

_CLASSES = {
    WorkloadClass.INTERACTIVE: workload_class_pb2.WORKLOAD_CLASS_INTERACTIVE,
    WorkloadClass.BATCH: workload_class_pb2.WORKLOAD_CLASS_BATCH,
    WorkloadClass.HIGH_RISK: workload_class_pb2.WORKLOAD_CLASS_HIGH_RISK,
}

_TRIGGERS = {
    Trigger.SATURATED: pb.DEGRADATION_TRIGGER_SATURATED,
    Trigger.DEADLINE_AT_RISK: pb.DEGRADATION_TRIGGER_DEADLINE_AT_RISK,
    Trigger.MODEL_UNHEALTHY: pb.DEGRADATION_TRIGGER_MODEL_UNHEALTHY,
    Trigger.BUDGET_LOW: pb.DEGRADATION_TRIGGER_BUDGET_LOW,
}

_UNITS = {
    Unit.TOKENS: pb.BUDGET_UNIT_TOKENS,
    Unit.MONEY: pb.BUDGET_UNIT_MONEY,
}

_WINDOWS = {
    Window.MINUTE: pb.BUDGET_WINDOW_MINUTE,
    Window.HOUR: pb.BUDGET_WINDOW_HOUR,
    Window.DAY: pb.BUDGET_WINDOW_DAY,
    Window.MONTH: pb.BUDGET_WINDOW_MONTH,
    Window.TOTAL: pb.BUDGET_WINDOW_TOTAL,
}
_NO_KEYS = Keys()


class TenantServicer(pb_grpc.TenantServiceServicer):
    """A router that reads slowly skips snapshots; it never falls behind."""

    def __init__(self, policy: Policy, *, heartbeat_s: float, keys: Keys = _NO_KEYS) -> None:
        self.policy, self.keys = policy, keys
        self._of_file = FileSnapshot(encode(policy))
        self._snapshot = self._of_file.joined(keys)  # once for all routers; each is a new message
        self._changes = Changes(heartbeat_s)
        self._closed = False

    @property
    def version(self) -> str:
        """Of the file in what routers are told."""
        return self._of_file.version

    def publish(self, policy: Policy) -> None:
        self.policy, self._of_file = policy, FileSnapshot(encode(policy))
        self._snapshot = self._of_file.joined(self.keys)
        self._changes.wake()

    def publish_keys(self, keys: Keys) -> None:
        self.keys, self._snapshot = keys, self._of_file.joined(keys)
        self._changes.wake()

    def has(self, tenant: str) -> bool:
        return self._of_file.has(tenant)

    def close(self) -> None:
        """Ends all streams, so that a drain need not wait for those that have no end."""
        self._closed = True
        self._changes.wake()

    async def WatchTenants(  # noqa: N802 - the name is the proto's
        self, request: pb.WatchTenantsRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.WatchTenantsResponse]:
        sent = ""
        while not self._closed:
            mark, snapshot = self._changes.mark(), self._snapshot
            is_new = snapshot.version != sent
            yield snapshot if is_new else pb.WatchTenantsResponse(version=sent)
            sent = snapshot.version
            await self._changes.since(mark)


def served(servicer: TenantServicer) -> Served:
    return Served(SERVICE, CALLERS, partial(pb_grpc.add_TenantServiceServicer_to_server, servicer))


def encode(policy: Policy) -> pb.WatchTenantsResponse:
    tenants = [_encode(tenant) for tenant in policy.tenants]
    classes = [_rules(each) for each in policy.classes]
    prices = [_price(each) for each in policy.prices]
    return pb.WatchTenantsResponse(
        version=policy.version, tenants=tenants, classes=classes, prices=prices
    )


def _encode(tenant: Tenant) -> pb.Tenant:
    return pb.Tenant(
        id=tenant.id,
        spiffe_ids=tenant.spiffe_ids,
        api_keys=[
            pb.ApiKey(id=key.id, sha256=key.sha256, workload=key.workload)
            for key in tenant.api_keys
        ],
        models=tenant.models,
        workload_classes=[_CLASSES[each] for each in tenant.workload_classes],
        default_workload_class=_CLASSES[tenant.default_workload_class],
        max_context_tokens=tenant.max_context_tokens,
        max_output_tokens=tenant.max_output_tokens,
        weight=tenant.weight,
        pool=tenant.pool,
        limits=None if tenant.limits == NO_LIMITS else _limits(tenant.limits),
        budgets=[encode_budget(each) for each in tenant.budgets],
    )


def _limits(limits: Limits) -> pb.TenantLimits:
    return pb.TenantLimits(
        requests_per_minute=limits.requests_per_minute,
        tokens_per_minute=limits.tokens_per_minute,
        concurrent_requests=limits.concurrent_requests,
        kv_share=limits.kv_share,
    )


def encode_budget(budget: Budget) -> pb.Budget:
    return pb.Budget(
        id=budget.id,
        unit=_UNITS[budget.unit],
        window=_WINDOWS[budget.window],
        limit=budget.limit,
        hard=budget.hard,
        workload=budget.workload,
        low_share=budget.low_share,
    )


def _price(price: Price) -> pb.Price:
    return pb.Price(
        model=price.model,
        prompt=price.prompt,
        cached_prompt=price.cached_prompt,
        output=price.output,
    )


def _rules(rules: ClassRules) -> pb.ClassRules:
    return pb.ClassRules(
        workload_class=_CLASSES[rules.workload_class],
        ladder=[_rung(each) for each in rules.ladder],
        resume=rules.resume,
        cache_ttl=_duration(rules.cache_ttl_s),
        pool=rules.pool,
    )


def _rung(rung: Rung) -> pb.Rung:
    trigger = _TRIGGERS[rung.when]
    match rung.step:
        case Step.FALLBACK_MODEL:
            return pb.Rung(trigger=trigger, fallback_model=rung.model)
        case Step.SMALLER_OUTPUT:
            return pb.Rung(trigger=trigger, smaller_output=rung.tokens)
        case Step.SMALLER_CONTEXT:
            return pb.Rung(trigger=trigger, smaller_context=rung.tokens)
        case Step.REFUSE:
            return pb.Rung(trigger=trigger, refuse=pb.Refusal())


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromMilliseconds(round(seconds * 1000))
    return duration
