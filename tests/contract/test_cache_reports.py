"""What routers say of their response caches is what telemetry counts."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from services.router.core.endings import Usage
from services.router.core.response_cache import Answer, Expected, ResponseCache
from services.router.outbound.cache_reports import GrpcCacheReports
from services.telemetry.inbound.caches import CacheServicer, Held
from tests.unit.telemetry.test_servicers import Served, serving

PATIENCE_S = 10.0
LOOK_EVERY_S = 0.01


@asynccontextmanager
async def reporting(telemetry: Served, cache: ResponseCache) -> AsyncIterator[None]:
    tls = telemetry.identities.service("router")
    reports = GrpcCacheReports(telemetry.where, tls, cache)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(reports.report())
        yield
        task.cancel()


async def until(caches: CacheServicer, held: Held | None, **outcomes: int) -> None:
    expected = {"hit": 0, "miss": 0, "bypass": 0, **outcomes}
    async with asyncio.timeout(PATIENCE_S):
        while (caches.held(), caches.outcomes) != (held, expected):  # noqa: ASYNC110 - as a scraper, it can only ask
            await asyncio.sleep(LOOK_EVERY_S)


def played(folder: Path, scenario: Callable[[Served], Awaitable[None]]) -> None:
    async def within() -> None:
        async with serving(folder) as telemetry:
            await scenario(telemetry)

    asyncio.run(within())


def keep(cache: ResponseCache, key: str) -> int:
    answer = Answer("1", Usage(1, 0, 1), (b"text",))
    cache.expect(key, Expected("acme", 60.0, 1.0))
    assert cache.keep(key, answer, 0.0)
    return answer.bytes


def test_counts_are_added_up_and_what_is_held_is_the_last_word(tmp_path: Path) -> None:
    async def scenario(telemetry: Served) -> None:
        cache = ResponseCache(most_bytes=1 << 20)
        async with reporting(telemetry, cache):
            await until(telemetry.caches, Held(0, 0))
            cache.outcomes["miss"] += 1
            size = keep(cache, "k1")
            await until(telemetry.caches, Held(1, size), miss=1)
            cache.outcomes["hit"] += 2
            cache.outcomes["bypass"] += 3
            await until(telemetry.caches, Held(1, size), hit=2, miss=1, bypass=3)
        await until(telemetry.caches, None, hit=2, miss=1, bypass=3)

    played(tmp_path, scenario)


def test_two_routers_are_added_up(tmp_path: Path) -> None:
    async def scenario(telemetry: Served) -> None:
        one, other = (ResponseCache(most_bytes=1 << 20) for _ in range(2))
        size = keep(one, "k1") + keep(other, "k2")
        one.outcomes["hit"] = other.outcomes["hit"] = 1
        async with reporting(telemetry, one), reporting(telemetry, other):
            await until(telemetry.caches, Held(2, size), hit=2)

    played(tmp_path, scenario)


def test_a_stream_that_is_opened_again_counts_nothing_twice(tmp_path: Path) -> None:
    async def scenario(telemetry: Served) -> None:
        cache = ResponseCache(most_bytes=1 << 20)
        cache.outcomes["hit"] = 1
        reports = GrpcCacheReports(telemetry.where, telemetry.identities.service("router"), cache)
        for hits in (1, 2):
            async with asyncio.TaskGroup() as tasks:
                task = tasks.create_task(reports.report())
                await until(telemetry.caches, Held(0, 0), hit=hits)
                task.cancel()
            await until(telemetry.caches, None, hit=hits)
            cache.outcomes["hit"] += 1

    played(tmp_path, scenario)


def test_a_drain_ends_the_stream(tmp_path: Path) -> None:
    async def scenario(telemetry: Served) -> None:
        async with reporting(telemetry, ResponseCache(most_bytes=1)):
            await until(telemetry.caches, Held(0, 0))
            telemetry.caches.close()
            await until(telemetry.caches, None)

    played(tmp_path, scenario)


def test_only_routers_may_report(tmp_path: Path) -> None:
    async def scenario(telemetry: Served) -> None:
        tls = telemetry.identities.tenant("acme")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await GrpcCacheReports(telemetry.where, tls, ResponseCache(most_bytes=1)).report()
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert telemetry.caches.held() is None

    played(tmp_path, scenario)
