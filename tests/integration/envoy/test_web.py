"""Browsers: gRPC-Web on both listeners, and whose pages may call."""

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from evenflow.inference.v1 import inference_service_pb2 as pb
from tests.fakes.envoy_router import refuse
from tests.fakes.scripted_runtime import delta
from tests.integration.envoy.gateway import CHAT, running_gateway, trusting

pytestmark = pytest.mark.integration

PATH = "/evenflow.inference.v1.InferenceService/Generate"
ASK = pb.GenerateRequest(model="m", text="hi")
ORIGIN = "https://chat.example"


def framed(message: pb.GenerateRequest) -> bytes:
    body = message.SerializeToString()
    return b"\0" + len(body).to_bytes(4, "big") + body


def frames(body: bytes) -> list[tuple[int, bytes]]:
    """Flag and content of each; flag 128 marks the trailers."""
    found = []
    while body:
        size = int.from_bytes(body[1:5], "big")
        found.append((body[0], body[5 : 5 + size]))
        body = body[5 + size :]
    return found


async def answers(context: Any) -> AsyncIterator[Any]:
    yield delta("a")
    context.set_trailing_metadata((("x-evenflow-output-tokens", "1"),))


@pytest.mark.parametrize("http2", [False, True])
def test_grpc_web_is_understood_on_both_listeners(tmp_path: Path, http2: bool) -> None:
    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            gateway.play(answers)
            plane = gateway.snapshot.data_plane
            context = trusting(gateway.identities.tenant("acme"))
            async with httpx.AsyncClient(verify=context, http1=not http2, http2=http2) as client:
                for url in (f"https://{plane.mesh}", f"http://{plane.front_end}"):
                    answer = await client.post(
                        url + PATH,
                        content=framed(ASK),
                        headers={"content-type": "application/grpc-web+proto", "x-grpc-web": "1"},
                    )
                    (_, message), (flag, trailers) = frames(answer.content)
                    assert pb.GenerateResponse.FromString(message).delta.text == "a"
                    assert flag == 128
                    assert b"grpc-status:0" in trailers
                    assert b"x-evenflow-output-tokens:1" in trailers
            assert pb.GenerateRequest.FromString(gateway.check.asked[0].body[5:]) == ASK

    asyncio.run(run())


def test_grpc_web_as_text_reaches_check_as_protobuf(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            gateway.play(answers)
            await gateway.http.post(
                PATH,
                content=base64.b64encode(framed(ASK)),
                headers={"content-type": "application/grpc-web-text", "x-grpc-web": "1"},
            )
            assert pb.GenerateRequest.FromString(gateway.check.asked[0].body[5:]) == ASK

    asyncio.run(run())


def test_a_refusal_reaches_a_browser_with_its_reason(tmp_path: Path) -> None:
    headers = {"grpc-status": "7", "grpc-message": "no", "x-evenflow-reason": "MODEL_NOT_ALLOWED"}

    async def deny(_: Any) -> Any:
        return refuse(403, headers)

    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            gateway.check.answer = deny
            answer = await gateway.http.post(
                PATH,
                content=framed(ASK),
                headers={"content-type": "application/grpc-web+proto", "x-grpc-web": "1"},
            )
            assert answer.headers["grpc-status"] == "7"
            assert answer.headers["x-evenflow-reason"] == "MODEL_NOT_ALLOWED"

    asyncio.run(run())


@pytest.mark.parametrize(
    ("origins", "allowed"),
    [((), None), ((ORIGIN,), ORIGIN), (("https://other.example",), None), (("*",), ORIGIN)],
)
def test_only_pages_of_named_origins_may_call(
    tmp_path: Path, origins: tuple[str, ...], allowed: str | None
) -> None:
    preflight = {
        "origin": ORIGIN,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }

    async def run() -> None:
        async with running_gateway(tmp_path, cors_origins=origins) as gateway:
            for path in (CHAT, PATH):
                answer = await gateway.http.options(path, headers=preflight)
                assert answer.headers.get("access-control-allow-origin") == allowed
            assert not gateway.check.asked or not allowed
            answer = await gateway.http.post(
                CHAT, json={"model": "m", "stream": True}, headers={"origin": ORIGIN}
            )
            assert answer.headers.get("access-control-allow-origin") == allowed

    asyncio.run(run())
