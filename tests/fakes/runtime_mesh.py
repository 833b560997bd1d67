"""A runtime as the mesh sees it: real mTLS, real gRPC, an engine of the test's choice."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import grpc
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from grpc_status import rpc_status

from evenflow.inference.v1 import inference_service_pb2 as pb
from evenflow.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from evenflow.openai.v1.chat_service_pb2_grpc import ChatServiceStub
from evenflow.runtime.v1.runtime_service_pb2_grpc import RuntimeServiceStub
from services.chassis.environ import address
from services.chassis.identity import channel
from services.runtime.core.engine import Engine
from services.runtime.core.journal import Journal
from services.runtime.inbound.serving import Serving
from services.runtime.inbound.state import StateServicer
from services.runtime.main import build_server
from tests.identities import Identities

OWNER = {
    "x-evenflow-request-id": "r-1",
    "x-evenflow-tenant": "acme",
    "x-evenflow-workload": "web",
    "x-evenflow-workload-class": "interactive",
    "x-evenflow-priority": "0",
    "x-evenflow-cache-salt": "5a17",
    "x-evenflow-max-context-tokens": "0",
    "x-evenflow-max-output-tokens": "0",
}


@dataclass(frozen=True, slots=True)
class Runtime:
    serving: Serving
    states: StateServicer
    where: str
    identities: Identities

    @asynccontextmanager
    async def called_by(self, service: str) -> AsyncIterator["Stubs"]:
        async with channel(self.where, self.identities.service(service), server="runtime") as calls:
            yield Stubs(
                InferenceServiceStub(calls), ChatServiceStub(calls), RuntimeServiceStub(calls)
            )


@dataclass(frozen=True, slots=True)
class Stubs:
    inference: Any  # grpc-stubs types only the synchronous ones
    chat: Any
    state: Any


@asynccontextmanager
async def running(
    folder: Path,
    engine: Engine,
    *,
    ready: bool = True,
    identities: Identities | None = None,
    journal: Journal | None = None,
) -> AsyncIterator[Runtime]:
    identities = identities or Identities(folder)
    tls = identities.service("runtime")
    serving = Serving(engine, endpoint="127.0.0.1:9101", journal=journal)
    states = StateServicer(serving)
    server = build_server(serving, states, tls)
    port = server.listen(address("127.0.0.1:0"), tls)
    await engine.start()
    serving.ready = ready
    await server.grpc.start()
    try:
        yield Runtime(serving, states, f"127.0.0.1:{port}", identities)
    finally:
        states.stop()
        await server.grpc.stop(None)
        await engine.close()


def owner(**changed: str) -> tuple[tuple[str, str], ...]:
    """The gateway's metadata; `tenant="globex"` changes x-evenflow-tenant, "" leaves it out."""
    names = {f"x-evenflow-{name.replace('_', '-')}": value for name, value in changed.items()}
    return tuple((key, value) for key, value in {**OWNER, **names}.items() if value)


def asking(text: str = "Tell me.", **sampling: Any) -> pb.GenerateRequest:
    return pb.GenerateRequest(model="simulated", text=text, sampling=pb.Sampling(**sampling))


@dataclass(frozen=True, slots=True)
class Refusal:
    code: grpc.StatusCode
    reason: str
    field: str | None
    message: str
    trailers: Mapping[str, str]


def refusal(error: grpc.aio.AioRpcError) -> Refusal:
    status = rpc_status.from_call(cast("grpc.Call", error))
    assert status is not None
    info, bad = ErrorInfo(), BadRequest()
    fields = []
    for detail in status.details:
        detail.Unpack(info)
        if detail.Unpack(bad):
            fields = [violation.field for violation in bad.field_violations]
    trailers = plain(error.trailing_metadata())
    return Refusal(
        error.code(), info.reason, fields[0] if fields else None, status.message, trailers
    )


def plain(metadata: Sequence[tuple[str, str | bytes]] | Any) -> dict[str, str]:
    return {key: value for key, value in metadata or () if isinstance(value, str)}
