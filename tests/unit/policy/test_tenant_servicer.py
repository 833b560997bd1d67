"""What routers see of the policy, over real mTLS connections."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from evenflow.inference.v1 import workload_class_pb2
from evenflow.policy.v1 import tenant_service_pb2 as pb
from services.policy.core.tenants import ClassRules, Policy, Rung, Step, Trigger, WorkloadClass
from services.policy.inbound.tenants import encode
from tests.unit.policy.policies import policy, tenant
from tests.unit.policy.served import Served, serving

SECOND = policy("v2", "acme", "globex")
HEARTBEAT_S = 0.05


async def names(call: Any) -> tuple[str, list[str]]:
    response = await call.read()
    return response.version, [tenant.id for tenant in response.tenants]


def test_a_router_gets_all_tenants_at_once_and_after_each_change(tmp_path: Path) -> None:
    async def scenario() -> list[tuple[str, list[str]]]:
        async with serving(tmp_path) as served, served.watching() as call:
            first = await names(call)
            served.servicer.publish(SECOND)
            return [first, await names(call)]

    assert asyncio.run(scenario()) == [("v1", ["acme"]), ("v2", ["acme", "globex"])]


def test_a_tenant_arrives_whole(tmp_path: Path) -> None:
    async def scenario() -> pb.Tenant:
        async with serving(tmp_path) as served, served.watching() as call:
            sent: pb.Tenant = (await call.read()).tenants[0]
            return sent

    assert asyncio.run(scenario()) == pb.Tenant(
        id="acme",
        spiffe_ids=["spiffe://evenflow.local/tenant/acme/*"],
        api_keys=[pb.ApiKey(id="web-1", sha256=bytes(32), workload="web")],
        models=["*"],
        workload_classes=[
            workload_class_pb2.WORKLOAD_CLASS_HIGH_RISK,
            workload_class_pb2.WORKLOAD_CLASS_BATCH,
        ],
        default_workload_class=workload_class_pb2.WORKLOAD_CLASS_BATCH,
        max_context_tokens=2048,
        weight=3,
        pool="vault",
        limits=pb.TenantLimits(
            requests_per_minute=60,
            tokens_per_minute=100_000,
            concurrent_requests=8,
            kv_share=0.25,
        ),
    )


def test_silence_is_broken_by_the_version_alone(tmp_path: Path) -> None:
    async def scenario() -> list[tuple[str, list[str]]]:
        async with (
            serving(tmp_path, heartbeat_s=HEARTBEAT_S) as served,
            served.watching() as call,
        ):
            return [await names(call) for _ in range(3)]

    assert asyncio.run(scenario()) == [("v1", ["acme"]), ("v1", []), ("v1", [])]


def test_every_router_hears_of_a_change(tmp_path: Path) -> None:
    async def scenario() -> set[str]:
        async with (
            serving(tmp_path) as served,
            served.watching() as one,
            served.watching() as two,
            served.watching("operator") as three,
        ):
            calls = [one, two, three]
            for call in calls:
                await names(call)
            served.servicer.publish(SECOND)
            return {(await names(call))[0] for call in calls}

    assert asyncio.run(scenario()) == {"v2"}


def test_ten_thousand_tenants_fit_one_message(tmp_path: Path) -> None:
    crowd = Policy("v1", [tenant(f"tenant-{number}") for number in range(10_000)])

    async def scenario() -> int:
        async with serving(tmp_path, crowd) as served, served.watching() as call:
            response: pb.WatchTenantsResponse = await call.read()
            return len(response.tenants)

    assert asyncio.run(scenario()) == 10_000


def test_a_drain_ends_every_stream_in_good_order(tmp_path: Path) -> None:
    async def scenario() -> grpc.StatusCode:
        async with serving(tmp_path) as served, served.watching() as call:
            await names(call)
            served.servicer.close()
            code: grpc.StatusCode = await call.code()
            return code

    assert asyncio.run(scenario()) is grpc.StatusCode.OK


@pytest.mark.parametrize(
    "enter",
    [
        lambda served: served.watching("runtime"),
        lambda served: served.watching("gateway"),
        lambda served: served.watching_as_tenant(),
    ],
    ids=["runtime", "gateway", "tenant"],
)
def test_nobody_else_sees_who_the_tenants_are(
    tmp_path: Path, enter: Callable[[Served], Any]
) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as served, enter(served) as call:
            await call.read()

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        asyncio.run(scenario())

    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_a_ladder_arrives_in_order() -> None:
    rungs = (
        Rung(when=Trigger.SATURATED, step=Step.SMALLER_OUTPUT, tokens=128),
        Rung(when=Trigger.SATURATED, step=Step.SMALLER_CONTEXT, tokens=1024),
        Rung(when=Trigger.MODEL_UNHEALTHY, step=Step.FALLBACK_MODEL, model="small"),
        Rung(when=Trigger.DEADLINE_AT_RISK, step=Step.REFUSE),
    )
    rules = ClassRules(workload_class=WorkloadClass.INTERACTIVE, ladder=rungs)

    (encoded,) = encode(Policy("v1", (), (rules,))).classes

    assert list(encoded.ladder) == [
        pb.Rung(trigger=pb.DEGRADATION_TRIGGER_SATURATED, smaller_output=128),
        pb.Rung(trigger=pb.DEGRADATION_TRIGGER_SATURATED, smaller_context=1024),
        pb.Rung(trigger=pb.DEGRADATION_TRIGGER_MODEL_UNHEALTHY, fallback_model="small"),
        pb.Rung(trigger=pb.DEGRADATION_TRIGGER_DEADLINE_AT_RISK, refuse=pb.Refusal()),
    ]
