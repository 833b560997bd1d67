"""What every Policy must do for the router. The fake and the gRPC adapter pass the same tests."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Protocol

import grpc
import pytest
from structlog.testing import capture_logs

from evenflow.policy.v1 import tenant_service_pb2 as pb
from evenflow.policy.v1 import tenant_service_pb2_grpc as pb_grpc
from services.router.classes import NUMBERS
from services.router.core.demands import WorkloadClass
from services.router.core.rungs import (
    FallbackModel,
    Refuse,
    Rung,
    SmallerContext,
    SmallerOutput,
    Trigger,
)
from services.router.core.tenants import NO_LIMITS, ClassRules, Limits, PolicyView, Tenant
from services.router.outbound.ladders import ladder
from services.router.outbound.policy import GrpcPolicy, Policy, PolicyFollower, PolicyWord
from tests.fakes.tenant_words import FakePolicy
from tests.identities import Identities
from tests.serving import served
from tests.unit.router.values import WEB, tenant

PATIENCE_S = 10.0
TRIGGERS = {
    Trigger.SATURATED: pb.DEGRADATION_TRIGGER_SATURATED,
    Trigger.DEADLINE_AT_RISK: pb.DEGRADATION_TRIGGER_DEADLINE_AT_RISK,
    Trigger.MODEL_UNHEALTHY: pb.DEGRADATION_TRIGGER_MODEL_UNHEALTHY,
}
LADDER = (
    SmallerOutput(Trigger.SATURATED, 128),
    SmallerContext(Trigger.SATURATED, 1024),
    FallbackModel(Trigger.MODEL_UNHEALTHY, "tiny"),
    Refuse(Trigger.DEADLINE_AT_RISK),
)


class Servicer(pb_grpc.TenantServiceServicer):
    """Puts a FakePolicy behind a real socket."""

    def __init__(self, policy: FakePolicy) -> None:
        self._policy = policy

    async def WatchTenants(  # noqa: N802 - the name is the proto's
        self, request: pb.WatchTenantsRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.WatchTenantsResponse]:
        async for word in self._policy.words():
            tenants = [_encoded(each) for each in word.tenants or ()]
            classes = [_rules(name, each) for name, each in word.classes.items()]
            yield pb.WatchTenantsResponse(version=word.version, tenants=tenants, classes=classes)


def _encoded(each: Tenant) -> pb.Tenant:
    return pb.Tenant(
        id=each.id,
        spiffe_ids=each.spiffe_ids,
        api_keys=[pb.ApiKey(sha256=key.sha256, workload=key.workload) for key in each.api_keys],
        models=each.models,
        workload_classes=[NUMBERS[known] for known in each.workload_classes],
        default_workload_class=NUMBERS[each.default_workload_class],
        max_context_tokens=each.max_context_tokens,
        max_output_tokens=each.max_output_tokens,
        weight=each.weight,
        pool=each.pool,
        limits=pb.TenantLimits(
            requests_per_minute=each.limits.requests_per_minute,
            tokens_per_minute=each.limits.tokens_per_minute,
            concurrent_requests=each.limits.concurrent_requests,
            kv_share=each.limits.kv_share,
        ),
    )


def _rules(workload_class: WorkloadClass, rules: ClassRules) -> pb.ClassRules:
    encoded = pb.ClassRules(workload_class=NUMBERS[workload_class], resume=rules.resume)
    encoded.cache_ttl.FromMilliseconds(round(rules.cache_ttl_s * 1000))
    encoded.ladder.extend(_rung(each) for each in rules.ladder)
    return encoded


def _rung(rung: Rung) -> pb.Rung:
    encoded = pb.Rung(trigger=TRIGGERS[rung.when])
    match rung:
        case FallbackModel(_, model):
            encoded.fallback_model = model
        case SmallerOutput(_, tokens):
            encoded.smaller_output = tokens
        case SmallerContext(_, tokens):
            encoded.smaller_context = tokens
        case Refuse():
            encoded.refuse.SetInParent()
    return encoded


class Connect(Protocol):
    def __call__(self, policy: FakePolicy) -> AbstractAsyncContextManager[Policy]: ...


@pytest.fixture(params=["fake", "grpc"])
def connect(request: pytest.FixtureRequest, identities: Identities) -> Connect:
    @asynccontextmanager
    async def in_memory(policy: FakePolicy) -> AsyncIterator[Policy]:
        yield policy

    @asynccontextmanager
    async def over_grpc(policy: FakePolicy) -> AsyncIterator[Policy]:
        servicer = Servicer(policy)
        register = partial(pb_grpc.add_TenantServiceServicer_to_server, servicer)
        async with served(register, identities.service("policy")) as address:
            yield GrpcPolicy(address, identities.service("router"))

    return in_memory if request.param == "fake" else over_grpc


def followed(connect: Connect, words: Sequence[PolicyWord]) -> PolicyView:
    """The router's view after these words and the stream's end, at one second a word."""
    view = PolicyView(stale_after_s=300.0)
    at_s = iter(range(100))

    async def scenario() -> None:
        policy = FakePolicy(*words)
        policy.stop()
        async with connect(policy) as connected, asyncio.timeout(PATIENCE_S):
            await PolicyFollower(view, lambda: float(next(at_s))).follow(connected)

    asyncio.run(scenario())
    return view


def test_a_snapshot_arrives_as_it_was_sent(connect: Connect) -> None:
    view = followed(connect, [PolicyWord("v1", (tenant(),))])

    tenants = view.current(0.0)
    assert tenants is not None
    assert (tenants.version, tenants.by_id("acme")) == ("v1", tenant())


def test_limits_arrive_as_they_were_sent_and_none_at_all_costs_nothing_to_ask(
    connect: Connect,
) -> None:
    limits = Limits(
        requests_per_minute=60, tokens_per_minute=10**12, concurrent_requests=8, kv_share=0.25
    )
    free = tenant(id="globex", spiffe_ids=(), api_keys=())
    view = followed(connect, [PolicyWord("v1", (tenant(limits=limits), free))])

    tenants = view.current(0.0)
    assert tenants is not None
    assert tenants.by_id("acme") == tenant(limits=limits)
    assert tenants.by_id("globex") == free
    assert getattr(tenants.by_id("globex"), "limits", None) is NO_LIMITS


def test_what_classes_get_arrives_as_it_was_sent(connect: Connect) -> None:
    rules = ClassRules(ladder=LADDER, resume=True, cache_ttl_s=1.5)
    word = PolicyWord("v1", (tenant(weight=7, pool="vault"),), {WorkloadClass.BATCH: rules})
    view = followed(connect, [word])

    tenants = view.current(0.0)
    assert tenants is not None
    assert tenants.by_id("acme") == tenant(weight=7, pool="vault")
    assert tenants.rules(WorkloadClass.BATCH) == rules
    assert tenants.rules(WorkloadClass.INTERACTIVE) == ClassRules()


def test_a_sign_of_life_keeps_the_snapshot_fresh(connect: Connect) -> None:
    view = followed(connect, [PolicyWord("v1", (tenant(),)), PolicyWord("v1", None)])

    tenants = view.current(301.0)
    assert tenants is not None
    assert tenants.by_id("acme") is not None


def test_a_change_replaces_the_snapshot_whole(connect: Connect) -> None:
    globex = tenant(id="globex", spiffe_ids=(), api_keys=())
    view = followed(connect, [PolicyWord("v1", (tenant(),)), PolicyWord("v2", (globex,))])

    tenants = view.current(0.0)
    assert tenants is not None
    assert tenants.by_spiffe_id(WEB) is None
    assert tenants.by_id("globex") is not None


def test_a_policy_without_tenants_denies_everybody(connect: Connect) -> None:
    view = followed(connect, [PolicyWord("v1", (tenant(),)), PolicyWord("v2", ())])

    tenants = view.current(0.0)
    assert tenants is not None
    assert tenants.by_id("acme") is None


def test_a_snapshot_that_cannot_be_right_leaves_the_one_before(connect: Connect) -> None:
    twice = (tenant(), tenant(id="globex"))
    view = followed(connect, [PolicyWord("v1", (tenant(),)), PolicyWord("v2", twice)])

    assert view.version == "v1"


def test_rungs_that_this_router_does_not_know_are_left_out() -> None:
    rungs = [
        pb.Rung(trigger=99, refuse=pb.Refusal()),  # type: ignore[arg-type] # of a newer policy
        pb.Rung(trigger=pb.DEGRADATION_TRIGGER_SATURATED),
        pb.Rung(trigger=pb.DEGRADATION_TRIGGER_SATURATED, smaller_output=128),
    ]

    with capture_logs() as logs:
        assert ladder(rungs) == LADDER[:1]
    assert [(each["event"], each["left_out"]) for each in logs] == [("policy.unknown_rungs", 2)]
