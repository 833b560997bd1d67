"""What routers say of their endpoints is what telemetry counts, for as long as they say it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from services.chassis.identity import TlsFiles
from services.router.core.bands import Band
from services.router.core.endpoints import Endpoints
from services.router.outbound.endpoint_states import GrpcEndpointStates, counts
from services.telemetry.inbound.endpoints import STATES
from tests.unit.router.values import A, B, state
from tests.unit.telemetry.test_servicers import Served, serving

PATIENCE_S = 10.0
LOOK_EVERY_S = 0.01


@dataclass(frozen=True, slots=True)
class Reporting:
    """Routers that report, and the telemetry that they report to."""

    telemetry: Served

    @asynccontextmanager
    async def router(
        self, endpoints: Endpoints, depths: Callable[[], Mapping[Band, int]] = dict
    ) -> AsyncIterator[None]:
        states = self._states(self.telemetry.identities.service("router"))
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(states.report(counts(endpoints, depths)))
            yield
            task.cancel()

    async def tenant(self) -> None:
        endpoints = Endpoints([A])
        await self._states(self.telemetry.identities.tenant("acme")).report(counts(endpoints))

    async def until_counted(self, **expected: int) -> None:
        def now() -> Mapping[str, int]:
            counted = self.telemetry.endpoints.counts()
            assert not counted or set(counted) == set(STATES.values())
            return {name: number for name, number in counted.items() if number}

        async with asyncio.timeout(PATIENCE_S):
            while now() != expected:  # noqa: ASYNC110 - as a scraper, it can only ask
                await asyncio.sleep(LOOK_EVERY_S)

    async def until_queued(self, **expected: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while self.telemetry.endpoints.queued() != expected:  # noqa: ASYNC110 - as a scraper, it can only ask
                await asyncio.sleep(LOOK_EVERY_S)

    def _states(self, tls: TlsFiles) -> GrpcEndpointStates:
        return GrpcEndpointStates(self.telemetry.where, tls)


def played(folder: Path, scenario: Callable[[Reporting], Awaitable[None]]) -> None:
    async def within() -> None:
        async with serving(folder) as telemetry:
            await scenario(Reporting(telemetry))

    asyncio.run(within())


def test_they_are_counted_at_once_and_on_each_change(tmp_path: Path) -> None:
    async def scenario(reporting: Reporting) -> None:
        endpoints = Endpoints([A, B])
        async with reporting.router(endpoints):
            await reporting.until_counted(unreachable=2)
            endpoints.saw(A, state())
            await reporting.until_counted(unreachable=1, ready=1)
            endpoints.saw(B, state(without_progress_s=9.0))
            await reporting.until_counted(stalled=1, ready=1)
            endpoints.drain(A)
            endpoints.lost(B)
            await reporting.until_counted(draining=1, unreachable=1)

    played(tmp_path, scenario)


def test_two_routers_are_added_up_and_a_gone_one_no_longer_counts(tmp_path: Path) -> None:
    async def scenario(reporting: Reporting) -> None:
        async with reporting.router(Endpoints([A])):
            async with reporting.router(Endpoints([A, B])):
                await reporting.until_counted(unreachable=3)
            await reporting.until_counted(unreachable=1)
        await reporting.until_counted()

        assert reporting.telemetry.endpoints.counts() == {}, "nobody says, so nothing is claimed"

    played(tmp_path, scenario)


def test_those_who_wait_are_counted_by_band_over_all_routers(tmp_path: Path) -> None:
    async def scenario(reporting: Reporting) -> None:
        depths = {Band.INTERACTIVE: 0, Band.BATCH: 0}
        async with reporting.router(Endpoints([A]), lambda: dict(depths)):
            await reporting.until_queued(interactive=0, batch=0)
            depths[Band.BATCH] = 7
            await reporting.until_queued(interactive=0, batch=7)
            async with reporting.router(Endpoints([A]), lambda: {Band.INTERACTIVE: 2}):
                await reporting.until_queued(interactive=2, batch=7)
        await reporting.until_queued()

    played(tmp_path, scenario)


def test_a_drain_ends_the_stream(tmp_path: Path) -> None:
    async def scenario(reporting: Reporting) -> None:
        async with reporting.router(Endpoints([A])):
            await reporting.until_counted(unreachable=1)
            reporting.telemetry.endpoints.close()
            await reporting.until_counted()

    played(tmp_path, scenario)


def test_only_routers_may_report(tmp_path: Path) -> None:
    async def scenario(reporting: Reporting) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await reporting.tenant()
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert reporting.telemetry.endpoints.counts() == {}

    played(tmp_path, scenario)
