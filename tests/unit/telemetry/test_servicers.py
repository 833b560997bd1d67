"""Who may report records and spans, and what becomes of them, over real mTLS connections."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from structlog.testing import capture_logs

from evenflow.inference.v1.inference_service_pb2 import Usage as UsageMessage
from evenflow.telemetry.v1 import record_service_pb2 as pb
from evenflow.telemetry.v1.record_service_pb2_grpc import RecordServiceStub
from services.chassis.environ import address
from services.chassis.identity import TlsFiles, channel
from services.telemetry.core.records import LostAttempt, Observation, Usage
from services.telemetry.inbound.caches import CacheServicer
from services.telemetry.inbound.endpoints import EndpointServicer
from services.telemetry.inbound.records import RecordServicer
from services.telemetry.inbound.spans import TraceServicer
from services.telemetry.main import build_server
from tests.fakes.collector import FakeSink, names_of
from tests.identities import Identities
from tests.unit.telemetry.observations import ORDINARY, record
from tests.unit.telemetry.test_forwarding import spans


@dataclass(frozen=True, slots=True)
class Served:
    records: RecordServicer
    endpoints: EndpointServicer
    caches: CacheServicer
    observed: list[Observation]
    lost: list[LostAttempt]
    counted: asyncio.Event  # set at the first
    sink: FakeSink
    where: str
    identities: Identities


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Served]:
    identities = Identities(folder)
    tls, observed, sink = identities.service("telemetry"), list[Observation](), FakeSink()
    lost, counted = list[LostAttempt](), asyncio.Event()

    def take(observation: Observation) -> None:
        observed.append(observation)
        counted.set()

    records = RecordServicer(take, lost.append)
    endpoints, caches = EndpointServicer(), CacheServicer()
    server = build_server(tls, records, TraceServicer(sink), followed=endpoints, kept=caches)
    port = server.listen(address("127.0.0.1:0"), tls)
    await server.grpc.start()
    try:
        where = f"127.0.0.1:{port}"
        yield Served(records, endpoints, caches, observed, lost, counted, sink, where, identities)
    finally:
        await server.grpc.stop(None)


async def report(calls: grpc.aio.Channel, *records: pb.RequestRecord) -> int:
    return await send(calls, *(pb.ReportRequestsRequest(records=[each]) for each in records))


async def send(calls: grpc.aio.Channel, *requests: pb.ReportRequestsRequest) -> int:
    response = await RecordServiceStub(calls).ReportRequests(iter(requests), timeout=10)
    taken: int = response.records
    return taken


async def export(calls: grpc.aio.Channel) -> None:
    stub: Any = TraceServiceStub(calls)  # type: ignore[no-untyped-call] # generated
    await stub.Export(spans("chat"), timeout=10)


def against(
    folder: Path,
    body: Callable[[grpc.aio.Channel], Awaitable[Any]],
    caller: Callable[[Identities], TlsFiles],
) -> Served:
    async def scenario() -> Served:
        async with serving(folder) as served:
            tls = caller(served.identities)
            async with channel(served.where, tls, server="telemetry") as calls:
                await body(calls)
            return served

    return asyncio.run(scenario())


def service(name: str) -> Callable[[Identities], TlsFiles]:
    return lambda identities: identities.service(name)


def tenant(identities: Identities) -> TlsFiles:
    return identities.tenant("acme")


def test_a_routers_records_are_counted(tmp_path: Path) -> None:
    served = against(tmp_path, lambda calls: report(calls, record(), record()), service("router"))

    assert served.observed == [ORDINARY, ORDINARY]
    assert served.records.taken == 2


def test_lost_attempts_are_counted_apart_and_senseless_ones_left_out(tmp_path: Path) -> None:
    usage = UsageMessage(prompt_tokens=20, cached_prompt_tokens=16, output_tokens=11)
    good = pb.LostAttempt(request_id="r1", attempt=2, tenant="acme", usage=usage)
    bad = pb.LostAttempt(tenant="acme", usage=UsageMessage(output_tokens=-1))
    told = pb.ReportRequestsRequest(records=[record()], lost_attempts=[bad, good])

    served = against(tmp_path, lambda calls: send(calls, told), service("router"))

    assert served.observed == [ORDINARY]
    assert served.lost == [
        LostAttempt(
            tenant="acme", usage=Usage(prompt_tokens=20, cached_prompt_tokens=16, output_tokens=11)
        )
    ]
    assert (served.records.taken, served.records.refused) == (2, 1)


def test_a_record_that_makes_no_sense_does_not_end_its_stream(tmp_path: Path) -> None:
    bad = record(grpc_code=99)

    with capture_logs() as logs:
        served = against(
            tmp_path, lambda calls: report(calls, record(), bad, record()), service("router")
        )

    assert (served.records.taken, served.records.refused) == (2, 1)
    assert [each["event"] for each in logs if each["log_level"] == "warning"] == ["record.refused"]


def test_records_are_counted_while_their_stream_is_open_and_a_drain_ends_it(
    tmp_path: Path,
) -> None:
    async def scenario() -> int:
        async with (
            serving(tmp_path) as served,
            channel(served.where, served.identities.service("router"), server="telemetry") as calls,
        ):
            stub: Any = RecordServiceStub(calls)
            call = stub.ReportRequests(timeout=10)
            await call.write(pb.ReportRequestsRequest(records=[record()]))
            async with asyncio.timeout(5):
                await served.counted.wait()
            served.records.close()
            response = await call
            taken: int = response.records
            return taken

    assert asyncio.run(scenario()) == 1


@pytest.mark.parametrize(
    "caller", [service("runtime"), service("gateway"), tenant], ids=["runtime", "gateway", "tenant"]
)
def test_only_a_router_may_report(tmp_path: Path, caller: Callable[[Identities], TlsFiles]) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        against(tmp_path, lambda calls: report(calls, record()), caller)

    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize(
    "name", ["gateway", "router", "runtime", "policy", "telemetry", "operator"]
)
def test_every_service_of_the_mesh_may_send_spans(tmp_path: Path, name: str) -> None:
    served = against(tmp_path, export, service(name))

    assert [names_of(request) for request, _ in served.sink.taken] == [["chat"]]


def test_a_tenant_may_not_send_spans(tmp_path: Path) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        against(tmp_path, export, tenant)

    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_spans_leave_no_line_in_the_log(tmp_path: Path) -> None:
    with capture_logs() as logs:
        against(tmp_path, export, service("router"))

    assert logs == []
