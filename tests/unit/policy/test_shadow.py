"""A candidate on its way to the routers and their counts on the way back, over real mTLS."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from evenflow.policy.v1 import shadow_service_pb2 as pb
from evenflow.policy.v1.shadow_service_pb2_grpc import ShadowServiceStub
from services.policy.core.shadow_counts import Kind, Report, ShadowCounts
from services.policy.outbound.database import Database
from tests.unit.policy.policies import ACME, GLOBEX
from tests.unit.policy.served import Served, read, reason_of, serving

CANDIDATE, OTHER = ACME.replace("512", "256"), ACME + GLOBEX
VERSION = read(CANDIDATE.encode()).version
KIND = Kind("", "OUTPUT_LIMIT", "acme")


async def put(served: Served, content: str) -> str:
    async with served.calls() as calls:
        asked = pb.SetShadowRequest(content=content.encode())
        told = await ShadowServiceStub(calls).SetShadow(asked, timeout=10)
        return str(told.version)


async def cleared(served: Served) -> str:
    async with served.calls() as calls:
        told = await ShadowServiceStub(calls).ClearShadow(pb.ClearShadowRequest(), timeout=10)
        return str(told.version)


async def status(served: Served) -> pb.GetShadowResponse:
    async with served.calls() as calls:
        told: pb.GetShadowResponse = await ShadowServiceStub(calls).GetShadow(
            pb.GetShadowRequest(), timeout=10
        )
        return told


async def report(served: Served, router: str, version: str, requests: int) -> None:
    difference = pb.ShadowDifference(
        live="", shadow="OUTPUT_LIMIT", tenant="acme", requests=requests, examples=[f"{router}-1"]
    )
    told = pb.ReportShadowRequest(
        router=router, version=version, judged=10 * requests, differences=[difference]
    )
    async with served.calls("router") as calls:
        await ShadowServiceStub(calls).ReportShadow(told, timeout=10)


def test_a_router_hears_of_it_at_once_and_of_each_change(tmp_path: Path) -> None:
    async def scenario() -> list[tuple[str, int]]:
        async with serving(tmp_path, ACME) as served, served.calls("router") as calls:
            call: Any = ShadowServiceStub(calls).WatchShadow(pb.WatchShadowRequest(), timeout=10)
            heard = [await call.read()]
            await put(served, CANDIDATE)
            heard.append(await call.read())
            await cleared(served)
            heard.append(await call.read())
            return [(each.version, len(each.snapshot.tenants)) for each in heard]

    assert asyncio.run(scenario()) == [("", 0), (VERSION, 1), ("", 0)]


def test_silence_is_filled_with_the_version_alone(tmp_path: Path) -> None:
    async def scenario() -> pb.WatchShadowResponse:
        async with serving(tmp_path, ACME, heartbeat_s=0.02) as served:
            await put(served, CANDIDATE)
            async with served.calls("router") as calls:
                watched = pb.WatchShadowRequest()
                call: Any = ShadowServiceStub(calls).WatchShadow(watched, timeout=10)
                await call.read()
                told: pb.WatchShadowResponse = await call.read()
                return told

    told = asyncio.run(scenario())
    assert (told.version, told.HasField("snapshot")) == (VERSION, False)


def test_it_decides_nothing(tmp_path: Path) -> None:
    async def scenario() -> tuple[str, str]:
        async with serving(tmp_path, ACME) as served:
            before = served.servicer.version
            await put(served, CANDIDATE)
            return before, served.servicer.version

    before, after = asyncio.run(scenario())
    assert before == after


def test_counts_of_all_routers_are_added_and_none_twice(tmp_path: Path) -> None:
    async def scenario() -> pb.GetShadowResponse:
        async with serving(tmp_path, ACME) as served:
            await put(served, CANDIDATE)
            await report(served, "one", VERSION, 1)
            await report(served, "two", VERSION, 2)
            await report(served, "one", VERSION, 3)
            await report(served, "three", "another candidate", 100)
            return await status(served)

    told = asyncio.run(scenario())
    (difference,) = told.differences
    assert (told.version, told.routers, told.judged, told.different) == (VERSION, 2, 50, 5)
    assert (difference.shadow, difference.requests) == ("OUTPUT_LIMIT", 5)
    assert set(difference.examples) == {"one-1", "two-1"}
    assert told.actor == "spiffe://evenflow.local/service/operator"


def test_another_candidate_begins_at_nothing_and_the_same_one_does_not(tmp_path: Path) -> None:
    async def scenario() -> list[int]:
        async with serving(tmp_path, ACME) as served:
            counts = []
            for content in (CANDIDATE, CANDIDATE, OTHER):
                version = await put(served, content)
                counts.append((await status(served)).judged)
                await report(served, "one", version, 1)
            return counts

    assert asyncio.run(scenario()) == [0, 10, 0]


def test_it_outlives_a_restart(tmp_path: Path) -> None:
    async def scenario() -> str:
        database = Database(f"sqlite:///{tmp_path}/policy.db")
        database.migrate()
        async with serving(tmp_path, ACME, database=database) as served:
            await put(served, CANDIDATE)
        async with serving(tmp_path, ACME, database=database) as served:
            return (await status(served)).version

    assert asyncio.run(scenario()) == VERSION


def test_a_cleared_one_does_not(tmp_path: Path) -> None:
    async def scenario() -> tuple[str, str, str]:
        database = Database(f"sqlite:///{tmp_path}/policy.db")
        database.migrate()
        async with serving(tmp_path, ACME, database=database) as served:
            await put(served, CANDIDATE)
            first, again = await cleared(served), await cleared(served)
        async with serving(tmp_path, ACME, database=database) as served:
            return first, again, (await status(served)).version

    assert asyncio.run(scenario()) == (VERSION, "", "")


def test_a_bad_one_is_refused_and_the_one_before_stays(tmp_path: Path) -> None:
    async def scenario() -> tuple[str, str]:
        async with serving(tmp_path, ACME) as served:
            await put(served, CANDIDATE)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await put(served, "tenants: 1")
            return reason_of(refused.value), (await status(served)).version

    assert asyncio.run(scenario()) == ("POLICY_INVALID", VERSION)


@pytest.mark.parametrize(
    ("method", "caller"),
    [
        ("SetShadow", "router"),
        ("ClearShadow", "router"),
        ("GetShadow", "runtime"),
        ("WatchShadow", "operator"),
        ("ReportShadow", "operator"),
        ("ReportShadow", "runtime"),
    ],
)
def test_others_may_not(method: str, caller: str, tmp_path: Path) -> None:
    async def scenario() -> grpc.StatusCode:
        async with serving(tmp_path, ACME) as served, served.calls(caller) as calls:
            request = getattr(pb, f"{method}Request")()
            call = getattr(ShadowServiceStub(calls), method)(request, timeout=10)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await (call.read() if method == "WatchShadow" else call)
            return refused.value.code()

    assert asyncio.run(scenario()) is grpc.StatusCode.PERMISSION_DENIED


def test_routers_without_end_are_kept_in_one_sum() -> None:
    counts = ShadowCounts("v1")

    for number in range(1_000):
        counts.heard(f"r-{number}", Report("v1", judged=2, requests={KIND: 1}))

    total = counts.total()
    assert (counts.routers, total.judged, total.requests) == (1_000, 2_000, {KIND: 1_000})
