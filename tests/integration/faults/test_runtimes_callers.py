"""What callers without the evenflow client see when the runtime under their stream dies.

Envoy can only reset a stream that has begun. docs/failure-modes.md has these answers.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import httpx
import pytest

from evenflow.client import chat_request
from evenflow.inference.v1 import inference_service_pb2 as pb
from evenflow.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from services.chassis.identity import TlsFiles, channel
from tests.integration.whole.mesh import Mesh, running
from tests.integration.whole.programs import Programs, until

SIMULATED = {"RUNTIME_SIMULATED_STEP_S": "0.04"}
ENDED_WITHIN_S = 1.0
OPENAI_ENDED_WITHIN_S = 2.0  # Envoy closes HTTP/1.1 connections a second after it has given up


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with running(command="simulate", model="simulated", environ=SIMULATED) as started:
        yield started


@pytest.fixture
def programs(mesh: Mesh) -> Programs:
    found = Programs(mesh.home)
    found.wait_until_settled()
    until(mesh.is_ready)  # the test before has killed all runtimes
    return found


def test_a_raw_stub_sees_an_internal_reset_without_a_reason(mesh: Mesh, programs: Programs) -> None:
    async def scenario() -> tuple[Any, float]:
        clock = asyncio.get_running_loop().time
        tls = TlsFiles.in_folder(mesh.tenant("acme"))
        sampling = pb.Sampling(max_output_tokens=400, ignore_eos=True)
        async with channel(mesh.address, tls, server="gateway") as calls:
            stub: Any = InferenceServiceStub(calls)
            call = stub.Generate(chat_request(mesh.model, "hi", sampling=sampling), timeout=30)
            messages = aiter(call)
            await anext(messages)
            programs.kill("runtime-1", "runtime-2")
            killed_s = clock()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await _read_on(messages)
            return caught.value, clock() - killed_s

    error, took_s = asyncio.run(scenario())

    assert error.code() is grpc.StatusCode.INTERNAL
    assert "RST_STREAM" in error.details()
    assert "grpc-status-details-bin" not in dict(error.trailing_metadata() or ())
    assert took_s < ENDED_WITHIN_S


async def _read_on(messages: AsyncIterator[Any]) -> None:
    async for _ in messages:
        pass


def test_an_openai_stream_breaks_off_without_done(mesh: Mesh, programs: Programs) -> None:
    body = {
        "model": mesh.model,
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "max_tokens": 400,
        "ignore_eos": True,
    }
    headers = {"authorization": f"Bearer {mesh.api_key('acme')}"}
    seen = []
    url = f"{mesh.frontend}/v1/chat/completions"
    with (
        httpx.Client(trust_env=False, timeout=30) as client,
        client.stream("POST", url, json=body, headers=headers) as response,
    ):
        assert response.status_code == 200
        lines = response.iter_lines()
        seen.append(next(lines))
        programs.kill("runtime-1", "runtime-2")
        killed_s = time.monotonic()
        with pytest.raises(httpx.RemoteProtocolError):
            seen.extend(lines)
        took_s = time.monotonic() - killed_s

    chunks = [line.removeprefix("data: ") for line in seen if line]
    assert "[DONE]" not in chunks
    assert "error" not in json.loads(chunks[-1])
    assert took_s < OPENAI_ENDED_WITHIN_S
