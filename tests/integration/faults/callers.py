"""Callers that use no client of ours, each one request after the other on one connection."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import httpx

from evenflow.client import chat_request
from evenflow.connection import connection
from evenflow.inference.v1 import inference_service_pb2 as pb
from evenflow.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from tests.integration.whole.mesh import Mesh

DEADLINE_S = 30.0


@dataclass(slots=True)
class Asked:
    answered: int = 0
    told_to_close: int = 0  # HTTP/1.1 answers with `connection: close`
    failures: list[str] = field(default_factory=list)


@asynccontextmanager
async def asking(mesh: Mesh, *, tokens: int) -> AsyncIterator[dict[str, Asked]]:
    """By kind: `stub` is a raw gRPC stub, `openai` a keep-alive client of HTTP/1.1."""
    asked = {"stub": Asked(), "openai": Asked()}
    stopping = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_stub(mesh, tokens, asked["stub"], stopping))
        tasks.create_task(_openai(mesh, tokens, asked["openai"], stopping))
        try:
            yield asked
        finally:
            stopping.set()


async def _stub(mesh: Mesh, tokens: int, asked: Asked, stopping: asyncio.Event) -> None:
    sampling = pb.Sampling(max_output_tokens=tokens, ignore_eos=True)
    request = chat_request(mesh.model, "hi", sampling=sampling)
    async with connection(mesh.address, mesh.tenant("acme")).channel() as channel:
        stub: Any = InferenceServiceStub(channel)
        while not stopping.is_set():
            try:
                async for _ in stub.Generate(request, timeout=DEADLINE_S):
                    pass
            except grpc.aio.AioRpcError as error:
                asked.failures.append(f"{error.code()}: {error.details()}")
            else:
                asked.answered += 1


async def _openai(mesh: Mesh, tokens: int, asked: Asked, stopping: asyncio.Event) -> None:
    question = [{"role": "user", "content": "hi"}]
    body = {"model": mesh.model, "stream": True, "max_tokens": tokens, "messages": question}
    client = httpx.AsyncClient(
        base_url=mesh.frontend,
        headers={"authorization": f"Bearer {mesh.api_key('acme')}"},
        timeout=DEADLINE_S,
        trust_env=False,
    )
    async with client:
        while not stopping.is_set():
            try:
                async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                    lines = [line async for line in answer.aiter_lines() if line]
            except httpx.HTTPError as error:
                asked.failures.append(repr(error))
                continue
            if answer.status_code != httpx.codes.OK or lines[-1] != "data: [DONE]":
                asked.failures.append(f"{answer.status_code}: {lines[-1:]}")
            else:
                asked.answered += 1
                asked.told_to_close += answer.headers.get("connection") == "close"
