"""What the router is asked, what its answer does, and what nobody but the router can say."""

import asyncio
import base64
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

from evenflow.inference.v1 import inference_service_pb2 as pb
from evenflow.openai.v1 import chat_service_pb2 as chat
from services.chassis.status import Status, rich_status
from tests.fakes.envoy_router import let_go, refuse
from tests.fakes.scripted_runtime import chunk, delta
from tests.integration.envoy.gateway import ASKED, CHAT, running_gateway, trailers_of

pytestmark = pytest.mark.integration

GENERATE = "/evenflow.inference.v1.InferenceService/Generate"
BY_ENVOY = {  # of its own making, on each question
    "host",
    "content-length",
    "x-evenflow-listener",
    "x-evenflow-received",
    "x-envoy-auth-partial-body",
    "x-envoy-internal",
    "x-envoy-expected-rq-timeout-ms",
}
ASK = pb.GenerateRequest(model="m", text="hi")


async def one_delta(_: Any) -> AsyncIterator[Any]:
    yield delta("a")


def test_check_sees_who_calls_and_one_kind_of_body(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            gateway.play(one_delta)
            await gateway.stub.Generate(ASK, timeout=5).read()
            seen = gateway.check.asked[0]
            assert seen.headers["x-evenflow-peer"] == "spiffe://evenflow.local/tenant/acme/web"
            assert seen.headers["x-evenflow-listener"] == "mesh"
            assert (
                abs(float(seen.headers["x-evenflow-received"]) - datetime.now(UTC).timestamp())
                < 5.0
            )
            assert seen.path == GENERATE
            assert pb.GenerateRequest.FromString(seen.body[5:]) == ASK
            assert seen.headers["grpc-timeout"]

            gateway.play(chunks)
            await gateway.http.post(
                CHAT, json={**ASKED, "stream": True}, headers={"authorization": "Bearer k"}
            )
            seen = gateway.check.asked[1]
            assert "x-evenflow-peer" not in seen.headers
            assert seen.headers["x-evenflow-listener"] == "frontend"
            assert seen.path == "/evenflow.openai.v1.ChatService/StreamChatCompletion"
            read = chat.StreamChatCompletionRequest.FromString(seen.body[5:])
            assert read.completion.model == "m"
            assert seen.headers["authorization"] == "Bearer k"

    asyncio.run(run())


async def chunks(_: Any) -> AsyncIterator[Any]:
    yield chunk("a")


def test_nobody_but_the_router_sets_the_meshs_headers(tmp_path: Path) -> None:
    claimed = {
        "x-evenflow-tenant": "globex",
        "x-evenflow-priority": "0",
        "x-evenflow-endpoints": "127.0.0.1:1",
        "x-evenflow-listener": "mesh",
        "x-evenflow-peer": "spiffe://evenflow.local/tenant/globex/web",
        "x-evenflow-received": "1.5",
        "x-envoy-max-retries": "9",
        "x-envoy-upstream-rq-timeout-ms": "1",
        "x-request-id": "mine",
        "x-forwarded-client-cert": "URI=spiffe://evenflow.local/tenant/globex/web",
    }

    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:

            async def answer(_: Any) -> Any:
                return let_go(gateway.addresses[1], x_evenflow_tenant="acme")

            gateway.check.answer = answer
            response = await gateway.http.post(
                CHAT,
                json={**ASKED, "stream": True},
                headers={**claimed, "x_evenflow_tenant": "globex", "authorization": "Bearer k"},
            )
            assert response.status_code == 200
            seen = gateway.check.asked[0].headers
            reached = gateway.runtimes[1].calls[0].metadata
            assert not claimed.items() & seen.items()
            assert set(seen) - BY_ENVOY == {"x-request-id", "authorization"}
            assert {key: value for key, value in reached.items() if "evenflow" in key} == {
                "x-evenflow-tenant": "acme",
                "x-evenflow-endpoints": gateway.addresses[1],
            }
            assert "authorization" not in reached
            assert reached["x-request-id"] == response.headers["x-evenflow-request-id"]

    asyncio.run(run())


def test_a_refusal_reaches_a_stub_with_its_details(tmp_path: Path) -> None:
    status = Status(grpc.StatusCode.RESOURCE_EXHAUSTED, "CONTEXT_LIMIT")
    rich = rich_status(status, "too much", field="text", retry_after_s=2)
    packed = base64.b64encode(rich.SerializeToString()).decode().rstrip("=")
    headers = {
        "grpc-status": "8",
        "grpc-message": "too%20much",
        "grpc-status-details-bin": packed,
        "x-evenflow-reason": "CONTEXT_LIMIT",
    }

    async def deny(_: Any) -> Any:
        return refuse(429, headers)

    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            gateway.check.answer = deny
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await gateway.stub.Generate(ASK).read()
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert caught.value.details() == "too much"
            trailers = trailers_of(caught.value)
            assert trailers["x-evenflow-reason"] == "CONTEXT_LIMIT"
            assert trailers["x-evenflow-request-id"]
            error: Any = caught.value
            read: Any = rpc_status.from_call(error)
            info = ErrorInfo()
            assert read.details[0].Unpack(info)
            assert info.reason == "CONTEXT_LIMIT"

    asyncio.run(run())


def test_a_client_that_leaves_cancels_its_check(tmp_path: Path) -> None:
    async def hold(_: Any) -> Any:
        await asyncio.Event().wait()

    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            gateway.check.answer = hold
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await gateway.stub.Generate(ASK, timeout=0.1).read()
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            async with asyncio.timeout(1):
                await gateway.check.cancelled.wait()

    asyncio.run(run())


def test_a_held_check_is_not_asked_again(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            answer = gateway.check.answer

            async def late(request: Any) -> Any:
                await asyncio.sleep(1.5)  # longer than any wait between two tries
                return await answer(request)

            gateway.check.answer = late
            await gateway.stub.Generate(ASK).read()
            assert len(gateway.check.asked) == 1

    asyncio.run(run())


def test_without_a_router_nobody_passes(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            await gateway.router.aclose()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await gateway.stub.Generate(ASK).read()
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert not gateway.runtimes[0].calls

    asyncio.run(run())


def test_what_envoy_refuses_by_itself_has_a_code_and_a_reason(tmp_path: Path) -> None:
    cases = (
        ("/nobody.Serves/This", 1, "UNIMPLEMENTED", "PATH_NOT_FOUND"),
        (GENERATE, 5 << 20, "RESOURCE_EXHAUSTED", "BODY_TOO_LARGE"),
    )

    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            for method, size, code, reason in cases:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await gateway.channel.unary_unary(method, bytes, bytes)(bytes(size))
                assert caught.value.code().name == code
                assert trailers_of(caught.value)["x-evenflow-reason"] == reason
            assert not gateway.check.asked

    asyncio.run(run())


def test_a_body_of_three_mebibytes_passes(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            gateway.play(one_delta)
            await gateway.stub.Generate(pb.GenerateRequest(text="x" * (3 << 20))).read()
            assert len(gateway.runtimes[0].calls[0].request.text) == 3 << 20

    asyncio.run(run())
