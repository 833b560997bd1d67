"""Routers and policy agree about a candidate: routers judge by it, their counts come back."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import grpc

from evenflow.policy.v1 import shadow_service_pb2 as pb
from evenflow.policy.v1.shadow_service_pb2_grpc import ShadowServiceStub
from services.router.core.shadow import Judgement, Shadow
from services.router.core.tenants import PolicyView
from services.router.outbound.policy import GrpcPolicy, PolicyFollower
from services.router.outbound.shadow import GrpcShadow
from tests.unit.policy.policies import ACME, DOMAIN, GLOBEX
from tests.unit.policy.served import Served, read, serving
from tests.unit.router.values import demand

CANDIDATE = ACME.replace("smollm2", "small").replace("512", "50")
WEB = f"spiffe://{DOMAIN}/tenant/acme/web"
SOON_S = 10.0


@asynccontextmanager
async def following(served: Served, count: int = 3) -> AsyncIterator[Sequence[Shadow]]:
    shadows = [Shadow() for _ in range(count)]
    tls = served.identities.service("router")
    tasks = await asyncio.TaskGroup().__aenter__()
    running = []
    for number, each in enumerate(shadows):
        source = GrpcShadow(served.where, tls, each, router=f"router-{number}")
        running.append(tasks.create_task(source.follow(lambda: 0.0)))
        running.append(tasks.create_task(source.report()))
    try:
        yield shadows
    finally:
        for task in running:
            task.cancel()
        await tasks.__aexit__(None, None, None)


async def put(served: Served, content: str) -> None:
    async with served.calls() as calls:
        asked = pb.SetShadowRequest(content=content.encode())
        await ShadowServiceStub(calls).SetShadow(asked, timeout=SOON_S)


async def status(calls: grpc.aio.Channel) -> pb.GetShadowResponse:
    told: pb.GetShadowResponse = await ShadowServiceStub(calls).GetShadow(
        pb.GetShadowRequest(), timeout=SOON_S
    )
    return told


async def heard(shadows: Sequence[Shadow], version: str) -> None:
    async with asyncio.timeout(SOON_S):
        while any(each.version != version for each in shadows):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.005)


def test_each_router_judges_by_it_and_all_counts_come_back(tmp_path: Path) -> None:
    async def scenario() -> pb.GetShadowResponse:
        async with serving(tmp_path, ACME) as served, following(served) as shadows:
            await put(served, CANDIDATE)
            await heard(shadows, read(CANDIDATE.encode()).version)
            for each in shadows:
                candidate = each.candidate(0.0)
                assert candidate is not None
                judgement = Judgement("r-1", None, "acme", demand())
                each.compare(judgement, candidate.by_spiffe_id(WEB))
            async with served.calls() as calls, asyncio.timeout(SOON_S):
                while (told := await status(calls)).routers < 3:  # noqa: ASYNC110 - likewise
                    await asyncio.sleep(0.005)
                return told

    told = asyncio.run(scenario())
    (difference,) = told.differences
    assert (told.judged, told.different, told.failed) == (3, 3, 0)
    assert (difference.live, difference.shadow, difference.tenant) == ("", "OUTPUT_LIMIT", "acme")
    assert set(difference.examples) == {"r-1"}


def test_a_cleared_one_is_cleared_everywhere(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, ACME) as served, following(served) as shadows:
            await put(served, CANDIDATE)
            await heard(shadows, read(CANDIDATE.encode()).version)
            async with served.calls() as calls:
                await ShadowServiceStub(calls).ClearShadow(pb.ClearShadowRequest(), timeout=SOON_S)
            await heard(shadows, "")

    asyncio.run(scenario())


def test_a_sign_of_life_keeps_it_fresh(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, ACME, heartbeat_s=0.01) as served:
            await put(served, CANDIDATE)
            shadow = Shadow(stale_after_s=1.0)
            times = iter(range(1_000_000))
            source = GrpcShadow(
                served.where, served.identities.service("router"), shadow, router="router-1"
            )
            async with asyncio.TaskGroup() as tasks:
                task = tasks.create_task(source.follow(lambda: float(next(times))))
                async with asyncio.timeout(SOON_S):
                    while shadow.candidate(5.0) is None:  # noqa: ASYNC110 - nobody tells
                        await asyncio.sleep(0.005)
                task.cancel()

    asyncio.run(scenario())


def test_a_change_is_what_three_routers_decide_by(tmp_path: Path) -> None:
    """How fast, with 10,000 tenants, `python -m benchmarks policies` tells."""

    async def scenario() -> None:
        async with serving(tmp_path, ACME) as served:
            views = [PolicyView(stale_after_s=300.0) for _ in range(3)]
            source = GrpcPolicy(served.where, served.identities.service("router"))
            async with asyncio.TaskGroup() as tasks:
                follow = [
                    tasks.create_task(PolicyFollower(each, lambda: 0.0).follow(source))
                    for each in views
                ]
                version = served.file_says(ACME + GLOBEX).version
                async with asyncio.timeout(SOON_S):
                    while any(each.version != version for each in views):  # noqa: ASYNC110 - likewise
                        await asyncio.sleep(0.005)
                for task in follow:
                    task.cancel()

    asyncio.run(scenario())
