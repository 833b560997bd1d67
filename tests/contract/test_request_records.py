"""What every Telemetry must do for the router; the fake and the adapter pass the same tests."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from typing import Protocol

import grpc
import pytest
from structlog.testing import capture_logs

from evenflow.telemetry.v1 import record_service_pb2 as pb
from evenflow.telemetry.v1 import record_service_pb2_grpc as pb_grpc
from services.router.core.demands import WorkloadClass
from services.router.core.requests import Request
from services.router.core.verdicts import Reason
from services.router.outbound.records import (
    GrpcTelemetry,
    Record,
    RecordBuffer,
    Telemetry,
    message,
)
from tests import virtual_time
from tests.fakes.request_records import FakeTelemetry
from tests.identities import Identities
from tests.serving import served
from tests.unit.router.values import decision, ended, lost

PATIENCE_S = 10.0


class Servicer(pb_grpc.RecordServiceServicer):
    """Puts a FakeTelemetry behind a real socket."""

    def __init__(self, telemetry: FakeTelemetry) -> None:
        self._telemetry = telemetry

    async def ReportRequests(  # noqa: N802 - the name is the proto's
        self,
        request_iterator: AsyncIterator[pb.ReportRequestsRequest],
        context: grpc.aio.ServicerContext,
    ) -> pb.ReportRequestsResponse:
        async for each in request_iterator:
            self._telemetry.take([record.request_id for record in each.records])
            self._telemetry.take(
                [f"{lost.request_id}/{lost.attempt}" for lost in each.lost_attempts]
            )
        return pb.ReportRequestsResponse()


class Connect(Protocol):
    def __call__(self, telemetry: FakeTelemetry) -> AbstractAsyncContextManager[Telemetry]: ...


@pytest.fixture(params=["fake", "grpc"])
def connect(request: pytest.FixtureRequest, identities: Identities) -> Connect:
    @asynccontextmanager
    async def in_memory(telemetry: FakeTelemetry) -> AsyncIterator[Telemetry]:
        yield telemetry

    @asynccontextmanager
    async def over_grpc(telemetry: FakeTelemetry) -> AsyncIterator[Telemetry]:
        servicer = Servicer(telemetry)
        register = partial(pb_grpc.add_RecordServiceServicer_to_server, servicer)
        async with served(register, identities.service("telemetry")) as address:
            yield GrpcTelemetry(address, identities.service("router"))

    return in_memory if request.param == "fake" else over_grpc


def test_records_arrive_in_order(connect: Connect) -> None:
    async def scenario() -> list[str]:
        buffer, telemetry = RecordBuffer(capacity=10), FakeTelemetry()
        async with connect(telemetry) as connected, asyncio.TaskGroup() as tasks:
            task = tasks.create_task(connected.report(buffer.batches()))
            for number in range(3):
                buffer.add(Request(None), ended(f"r{number}"))
            async with asyncio.timeout(PATIENCE_S):
                told = await telemetry.told_of(3)
            task.cancel()
        return told

    assert asyncio.run(scenario()) == ["r0", "r1", "r2"]


def test_lost_attempts_arrive_beside_the_records(connect: Connect) -> None:
    async def scenario() -> list[str]:
        buffer, telemetry = RecordBuffer(capacity=10), FakeTelemetry()
        async with connect(telemetry) as connected, asyncio.TaskGroup() as tasks:
            task = tasks.create_task(connected.report(buffer.batches()))
            buffer.add(Request(None), ended("r1"))
            buffer.add_attempt(lost("r1", number=2))
            async with asyncio.timeout(PATIENCE_S):
                told = await telemetry.told_of(2)
            task.cancel()
        return told

    assert asyncio.run(scenario()) == ["r1", "r1/2"]


def test_the_last_records_wait_for_no_company() -> None:
    async def scenario() -> float:
        buffer, telemetry = RecordBuffer(capacity=2), FakeTelemetry()
        async with asyncio.TaskGroup() as tasks:
            reporting = tasks.create_task(telemetry.report(buffer.batches()))
            buffer.add(Request(None), ended("r1"))
            await asyncio.sleep(0)
            began_s = asyncio.get_running_loop().time()
            buffer.hurry()
            await telemetry.told_of(1)
            buffer.add(Request(None), ended("r2"))
            await telemetry.told_of(2)
            took_s = asyncio.get_running_loop().time() - began_s
            reporting.cancel()
        return took_s

    assert virtual_time.run(scenario()) == 0.0


def test_while_telemetry_is_away_the_oldest_make_way_and_are_counted_once() -> None:
    async def scenario() -> list[str]:
        buffer, telemetry = RecordBuffer(capacity=2), FakeTelemetry()
        for number in range(5):
            buffer.add(Request(None), ended(f"r{number}"))
        assert buffer.dropped == 3
        async with asyncio.TaskGroup() as tasks:
            reporting = tasks.create_task(telemetry.report(buffer.batches()))
            async with asyncio.timeout(PATIENCE_S):
                told = await telemetry.told_of(2)
            await asyncio.sleep(0)  # what follows a batch
            reporting.cancel()
        return told

    with capture_logs() as logs:
        told = asyncio.run(scenario())
    assert told == ["r3", "r4"]
    assert [each["event"] for each in logs] == ["records.dropping", "records.dropped"]
    assert logs[1]["records"] == 3


def test_telemetry_that_is_not_there_takes_no_record(identities: Identities) -> None:
    async def scenario() -> None:
        buffer = RecordBuffer(capacity=2)
        buffer.add(Request(None), ended("r0"))
        away = GrpcTelemetry("127.0.0.1:1", identities.service("router"))
        with suppress(TimeoutError):
            async with asyncio.timeout(0.3):
                await away.report(buffer.batches())
        buffer.add(Request(None), ended("r1"))
        buffer.add(Request(None), ended("r2"))
        assert buffer.dropped == 1

    asyncio.run(scenario())


def test_a_record_says_all_that_is_known() -> None:
    decided = decision(
        trace_id="ab" * 16,
        workload="web",
        model="small",
        workload_class=WorkloadClass.BATCH,
        queue_wait_s=0.25,
    )

    record = message(Record(Request(decided), ended(first_token_s=0.5)))

    assert (record.tenant, record.workload, record.model) == ("acme", "web", "small")
    assert (record.workload_class, record.trace_id) == (2, "ab" * 16)
    assert (record.queue_wait.nanos, record.time_to_first_token.nanos) == (250_000_000, 500_000_000)
    assert (record.usage.output_tokens, record.attempts) == (20, 1)
    assert (record.hedged, record.hedge_won) == (False, False)


@pytest.mark.parametrize(("cache", "cached"), [("hit", True), ("miss", False), ("", False)])
def test_a_hits_record_says_so(cache: str, cached: bool) -> None:
    record = message(Record(Request(decision(cache=cache)), ended(engine="cache")))

    assert record.cached is cached


def test_a_refusals_record_has_its_reason_and_no_wait() -> None:
    decided = decision(refusal=Reason.OUTPUT_LIMIT)

    record = message(Record(Request(decided), ended(first_token_s=None, usage=None)))

    assert record.reason == "OUTPUT_LIMIT"
    assert not record.HasField("queue_wait")
    assert not record.HasField("time_to_first_token")
    assert not record.HasField("usage")


@pytest.mark.parametrize(("attempt", "won"), [(1, False), (2, True)])
def test_a_record_says_whether_a_hedge_won(attempt: int, won: bool) -> None:
    end = ended(attempts=2, hedged=True, answered_attempt=attempt)

    record = message(Record(Request(decision(), end), end))

    assert (record.hedged, record.hedge_won) == (True, won)
