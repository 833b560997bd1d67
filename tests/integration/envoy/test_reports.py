"""What Envoy reports of a request: its end in the access log, its way in spans."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)

from evenflow.inference.v1 import inference_service_pb2 as pb
from services.chassis.identity import TlsFiles, server_credentials
from services.router.core.snapshot import HostPort
from tests.fakes.envoy_router import let_go, refuse
from tests.fakes.scripted_runtime import chunk, delta
from tests.identities import Identities
from tests.integration.envoy.gateway import ASKED, CHAT, Gateway, running_gateway

pytestmark = pytest.mark.integration

ASK = pb.GenerateRequest(model="m", text="a secret")
TRACE = "0af7651916cd43dd8448eb211c80319c"
USAGE = (("x-evenflow-prompt-tokens", "3"), ("x-evenflow-engine", "simulated"))


async def answers(context: Any) -> AsyncIterator[Any]:
    yield delta("a")
    context.set_trailing_metadata(USAGE)


async def streams(context: Any) -> AsyncIterator[Any]:
    yield chunk("a")
    context.set_trailing_metadata(USAGE)


async def fails(context: Any) -> AsyncIterator[Any]:
    await context.abort(grpc.StatusCode.INTERNAL, "broke", (("x-evenflow-reason", "BUG"),))
    yield


def names_the_request(gateway: Gateway) -> None:
    async def answer(request: Any) -> Any:
        name = request.headers["x-request-id"]
        return let_go(",".join(gateway.addresses), x_evenflow_request_id=name)

    gateway.check.answer = answer


def test_an_end_is_reported_with_usage_and_first_token(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            names_the_request(gateway)
            gateway.play(answers)
            await gateway.stub.Generate(ASK).read()
            entry = await gateway.log.entry()
            asked = gateway.check.asked[0].headers["x-request-id"]
            assert entry.request.request_headers["x-evenflow-request-id"] == asked
            assert entry.request.request_id == asked
            assert dict(entry.response.response_trailers) == {**dict(USAGE), "grpc-status": "0"}
            common = entry.common_properties
            assert common.upstream_request_attempt_count == 1
            served = common.upstream_remote_address.socket_address
            assert f"{served.address}:{served.port_value}" == gateway.addresses[0]
            assert common.time_to_first_upstream_rx_byte.nanos > 0
            assert common.duration.nanos > common.time_to_first_upstream_rx_byte.nanos

            gateway.play(streams)
            await gateway.chat(stream=True)
            entry = await gateway.log.entry()
            assert dict(entry.response.response_trailers) == {**dict(USAGE), "grpc-status": "0"}

    asyncio.run(run())


def test_a_failure_before_the_first_token_is_reported_by_headers(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            names_the_request(gateway)
            gateway.play(fails)
            with pytest.raises(grpc.aio.AioRpcError):
                await gateway.stub.Generate(ASK).read()
            await gateway.chat()
            for _ in range(2):
                entry = await gateway.log.entry()
                told = {"grpc-status": "13", "x-evenflow-reason": "BUG"}
                assert dict(entry.response.response_headers) == told
                assert entry.request.request_headers["x-evenflow-request-id"]

    asyncio.run(run())


def test_what_was_not_let_go_can_be_told_apart(tmp_path: Path) -> None:
    async def deny(_: Any) -> Any:
        return refuse(403, {"grpc-status": "7"})

    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            gateway.check.answer = deny
            with pytest.raises(grpc.aio.AioRpcError):
                await gateway.stub.Generate(ASK).read()
            refused = await gateway.log.entry()
            assert refused.response.response_code_details == "ext_authz_denied"
            await gateway.http.post("/v1/nothing", json=ASKED)
            unknown = await gateway.log.entry()
            for entry in (refused, unknown):
                assert "x-evenflow-request-id" not in entry.request.request_headers
                assert not entry.common_properties.upstream_cluster

    asyncio.run(run())


def test_a_client_that_left_is_told_apart(tmp_path: Path) -> None:
    async def stops_half_way(_: Any) -> AsyncIterator[Any]:
        yield delta("a")
        await asyncio.Event().wait()

    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            names_the_request(gateway)
            gateway.play(stops_half_way)
            call = gateway.stub.Generate(ASK)
            await call.read()
            call.cancel()
            entry = await gateway.log.entry()
            flags = entry.common_properties.response_flags
            assert flags.downstream_remote_reset or flags.downstream_connection_termination
            assert "grpc-status" not in entry.response.response_trailers

    asyncio.run(run())


class Receiver(TraceServiceServicer):
    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.came = asyncio.Condition()

    async def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        async with self.came:
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    self.spans.extend(scope.spans)
            self.came.notify_all()
        return otlp.ExportTraceServiceResponse()


async def listening(receiver: Receiver, tls: TlsFiles) -> tuple[grpc.aio.Server, int]:
    server = grpc.aio.server()
    add_TraceServiceServicer_to_server(receiver, server)  # type: ignore[no-untyped-call] # generated without types
    port = server.add_secure_port("127.0.0.1:0", server_credentials(tls))
    await server.start()
    return server, port


def test_one_trace_goes_from_the_caller_to_router_and_runtime(tmp_path: Path) -> None:
    async def run() -> None:
        receiver = Receiver()
        identities = Identities(tmp_path / "certs")
        server, port = await listening(receiver, identities.service("telemetry"))
        telemetry = HostPort("127.0.0.1", port)
        try:
            async with running_gateway(tmp_path, identities, telemetry=telemetry) as gateway:
                gateway.play(streams)
                traced = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
                body = {**ASKED, "stream": True, "user": "a secret"}
                await gateway.http.post(CHAT, json=body, headers=traced)

                asked = str(gateway.check.asked[0].headers["traceparent"]).split("-")
                reached = str(gateway.runtimes[0].calls[0].metadata["traceparent"]).split("-")
                async with asyncio.timeout(10), receiver.came:
                    await receiver.came.wait_for(lambda: len(receiver.spans) >= 3)
                assert {span.trace_id.hex() for span in receiver.spans} == {TRACE}
                assert asked[1] == reached[1] == TRACE
                made = {span.span_id.hex() for span in receiver.spans}  # by Envoy, for each call
                assert {asked[2], reached[2]} <= made
                assert asked[2] != reached[2]
                assert "secret" not in str(receiver.spans)
        finally:
            await server.stop(0)

    asyncio.run(run())


def test_nothing_is_traced_that_nobody_wants_traced(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_gateway(
            tmp_path, telemetry=HostPort("127.0.0.1", 1), trace_share=0.0
        ) as gateway:
            gateway.play(answers)
            await gateway.stub.Generate(ASK).read()
            reached = gateway.runtimes[0].calls[0].metadata
            assert str(reached["traceparent"]).endswith("-00")

    asyncio.run(run())
