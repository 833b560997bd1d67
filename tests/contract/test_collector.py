"""What every Collector must do. The fake and the gRPC adapter pass the same tests."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as pb_grpc

from services.telemetry.outbound.collector import GrpcCollector
from services.telemetry.outbound.forwarding import Collector, CollectorAway, CollectorRefused
from tests.fakes.collector import FakeCollector
from tests.unit.telemetry.test_forwarding import spans

Connect = Callable[[FakeCollector], AbstractAsyncContextManager[Collector]]


class Servicer(pb_grpc.TraceServiceServicer):
    """Puts a FakeCollector behind a real socket."""

    def __init__(self, collector: FakeCollector) -> None:
        self._collector = collector

    async def Export(  # noqa: N802 - the name is the proto's
        self, request: pb.ExportTraceServiceRequest, context: grpc.aio.ServicerContext
    ) -> pb.ExportTraceServiceResponse:
        try:
            await self._collector.export(request)
        except CollectorAway as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        except CollectorRefused as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        return pb.ExportTraceServiceResponse()


@asynccontextmanager
async def in_memory(collector: FakeCollector) -> AsyncIterator[Collector]:
    yield collector


@asynccontextmanager
async def over_grpc(collector: FakeCollector) -> AsyncIterator[Collector]:
    server = grpc.aio.server()
    pb_grpc.add_TraceServiceServicer_to_server(Servicer(collector), server)  # type: ignore[no-untyped-call] # generated
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    adapter = GrpcCollector(lambda: grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
    try:
        yield adapter
    finally:
        await adapter.close()
        await server.stop(None)


@pytest.fixture(params=[in_memory, over_grpc], ids=["fake", "grpc"])
def connect(request: pytest.FixtureRequest) -> Connect:
    chosen: Connect = request.param
    return chosen


def test_what_is_exported_was_taken(connect: Connect) -> None:
    async def scenario() -> list[str]:
        fake = FakeCollector()
        async with connect(fake) as collector:
            await collector.export(spans("a", "b"))
        return fake.taken

    assert asyncio.run(scenario()) == ["a", "b"]


def test_a_collector_that_is_away_may_be_asked_again(connect: Connect) -> None:
    async def scenario() -> list[str]:
        fake = FakeCollector()
        fake.here = False
        async with connect(fake) as collector:
            with pytest.raises(CollectorAway):
                await collector.export(spans("a"))
            fake.here = True
            await collector.export(spans("a"))
        return fake.taken

    assert asyncio.run(scenario()) == ["a"]


def test_a_refusal_is_final(connect: Connect) -> None:
    async def scenario() -> None:
        async with connect(FakeCollector(disliked="a")) as collector:
            await collector.export(spans("a"))

    with pytest.raises(CollectorRefused):
        asyncio.run(scenario())
