"""Stands where Envoy would: a real gRPC server over mTLS whose answers a test writes down."""

# ruff: noqa: N802 - the names are the protos'
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from evenflow.inference.v1 import inference_service_pb2 as pb
from evenflow.inference.v1.inference_service_pb2_grpc import (
    InferenceServiceServicer,
    add_InferenceServiceServicer_to_server,
)
from evenflow.policy.v1 import ledger_service_pb2 as ledger
from evenflow.policy.v1 import policy_service_pb2 as policy
from evenflow.policy.v1 import tenant_service_pb2 as tenants
from evenflow.policy.v1.ledger_service_pb2_grpc import (
    LedgerServiceServicer,
    add_LedgerServiceServicer_to_server,
)
from evenflow.policy.v1.policy_service_pb2_grpc import (
    PolicyServiceServicer,
    add_PolicyServiceServicer_to_server,
)
from evenflow.policy.v1.tenant_service_pb2_grpc import (
    TenantServiceServicer,
    add_TenantServiceServicer_to_server,
)
from evenflow.router.v1 import router_service_pb2 as router
from evenflow.router.v1.router_service_pb2_grpc import (
    RouterServiceServicer,
    add_RouterServiceServicer_to_server,
)
from services.chassis.identity import TlsFiles, server_credentials
from services.chassis.status import Status, rich_status
from tests.identities import Identities

MODEL = "smollm2-135m-instruct"
STARTED = pb.Started(request_id="r-1", model=MODEL, engine="llamacpp", endpoint="127.0.0.1:9101")
FINISHED = pb.Finished(
    reason=pb.FINISH_REASON_STOP, usage=pb.Usage(prompt_tokens=9, output_tokens=2)
)

Ending = Callable[[grpc.ServicerContext], None]
Answering = Callable[[pb.GenerateRequest, grpc.ServicerContext], Iterator[pb.GenerateResponse]]


@dataclass
class Script:
    """What the mesh answers, and what it was asked."""

    texts: Sequence[str] = ("Hello", " there")
    started: pb.Started = field(default_factory=lambda: STARTED)
    before: Ending | None = None  # instead of an answer
    after: Ending | None = None  # instead of `finished`
    answer: Answering | None = None  # instead of all this
    explained: router.ExplainResponse = field(default_factory=router.ExplainResponse)
    endpoints: router.ListEndpointsResponse = field(default_factory=router.ListEndpointsResponse)
    checked: policy.CheckPolicyResponse = field(default_factory=policy.CheckPolicyResponse)
    known: tenants.WatchTenantsResponse = field(default_factory=tenants.WatchTenantsResponse)
    budgets: ledger.ListBudgetsResponse = field(default_factory=ledger.ListBudgetsResponse)
    ledger_asked: list[str] = field(default_factory=list)
    policies: list[bytes] = field(default_factory=list)
    requests: list[pb.GenerateRequest] = field(default_factory=list)
    metadata: list[dict[str, str]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)


def refuses(code: grpc.StatusCode, reason: str, message: str, **details: Any) -> Ending:
    """Ends a call as the mesh's own services do."""

    def end(context: grpc.ServicerContext) -> None:
        from grpc_status import rpc_status  # noqa: PLC0415 - only here

        status = rich_status(Status(code, reason), message, **details)
        context.abort_with_status(rpc_status.to_status(status))

    return end


def waits(script: Script) -> Ending:
    """Says nothing more until the client leaves or its deadline passes."""

    def wait(_context: grpc.ServicerContext) -> None:
        script.ended.wait(10)

    return wait


def breaks(code: grpc.StatusCode, message: str) -> Ending:
    """Ends a call as Envoy does: a bare status."""
    return lambda context: context.abort(code, message)


class _Inference(InferenceServiceServicer):
    def __init__(self, script: Script) -> None:
        self._script = script

    def Generate(
        self, request: pb.GenerateRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.GenerateResponse]:
        script = self._script
        context.add_callback(script.ended.set)
        script.requests.append(request)
        script.metadata.append({key: str(value) for key, value in context.invocation_metadata()})
        if script.answer:
            yield from script.answer(request, context)
            return
        if script.before:
            script.before(context)
        yield pb.GenerateResponse(started=script.started)
        for text in script.texts:
            yield pb.GenerateResponse(delta=pb.Delta(text=text, tokens=1))
        if script.after:
            script.after(context)
        yield pb.GenerateResponse(finished=FINISHED)

    def ListModels(
        self, request: pb.ListModelsRequest, context: grpc.ServicerContext
    ) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=[pb.Model(name=MODEL, endpoints=2)])

    def CountTokens(
        self, request: pb.CountTokensRequest, context: grpc.ServicerContext
    ) -> pb.CountTokensResponse:
        return pb.CountTokensResponse(tokens=len(request.text.split()))

    def Tokenize(
        self, request: pb.TokenizeRequest, context: grpc.ServicerContext
    ) -> pb.TokenizeResponse:
        return pb.TokenizeResponse(ids=range(len(request.text.split())))


class _Router(RouterServiceServicer):
    def __init__(self, script: Script) -> None:
        self._script = script

    def ListEndpoints(
        self, request: router.ListEndpointsRequest, context: grpc.ServicerContext
    ) -> router.ListEndpointsResponse:
        return self._script.endpoints

    def Explain(
        self, request: router.ExplainRequest, context: grpc.ServicerContext
    ) -> router.ExplainResponse:
        if request.request_id != self._script.explained.request_id:
            refuses(grpc.StatusCode.NOT_FOUND, "REQUEST_NOT_FOUND", "never seen")(context)
        return self._script.explained

    def DrainEndpoint(
        self, request: router.DrainEndpointRequest, context: grpc.ServicerContext
    ) -> router.DrainEndpointResponse:
        return router.DrainEndpointResponse()


class _Policy(PolicyServiceServicer):
    def __init__(self, script: Script) -> None:
        self._script = script

    def CheckPolicy(
        self, request: policy.CheckPolicyRequest, context: grpc.ServicerContext
    ) -> policy.CheckPolicyResponse:
        self._script.policies.append(request.content)
        return self._script.checked

    def DiffPolicy(
        self, request: policy.DiffPolicyRequest, context: grpc.ServicerContext
    ) -> policy.DiffPolicyResponse:
        return policy.DiffPolicyResponse()


class _Tenants(TenantServiceServicer):
    def __init__(self, script: Script) -> None:
        self._script = script

    def WatchTenants(
        self, request: tenants.WatchTenantsRequest, context: grpc.ServicerContext
    ) -> Iterator[tenants.WatchTenantsResponse]:
        yield self._script.known
        self._script.ended.wait(10)  # a stream without an end


class _Ledger(LedgerServiceServicer):
    """To operators alone."""

    def __init__(self, script: Script) -> None:
        self._script = script

    def Lease(
        self, request_iterator: Iterator[ledger.LeaseRequest], context: grpc.ServicerContext
    ) -> Iterator[ledger.LeaseResponse]:
        raise NotImplementedError

    def Settle(
        self, request_iterator: Iterator[ledger.SettleRequest], context: grpc.ServicerContext
    ) -> Iterator[ledger.SettleResponse]:
        raise NotImplementedError

    def ListBudgets(
        self, request: ledger.ListBudgetsRequest, context: grpc.ServicerContext
    ) -> ledger.ListBudgetsResponse:
        self._script.ledger_asked.append(request.tenant)
        return self._script.budgets

    def ForgetRuntime(
        self, request: ledger.ForgetRuntimeRequest, context: grpc.ServicerContext
    ) -> ledger.ForgetRuntimeResponse:
        self._script.ledger_asked.append(request.endpoint)
        return ledger.ForgetRuntimeResponse(journals=1)


@dataclass(frozen=True)
class ScriptedMesh:
    port: int
    identities: Identities
    certificates: Path  # of tenant acme's workload web

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


@contextmanager
def scripted_mesh(
    script: Script, folder: Path, *, service: str = "gateway"
) -> Iterator[ScriptedMesh]:
    """Serves `script` on a free port, with the certificate of `service`."""
    identities = Identities(folder)
    server = grpc.server(ThreadPoolExecutor(4))
    add_InferenceServiceServicer_to_server(_Inference(script), server)
    add_RouterServiceServicer_to_server(_Router(script), server)
    add_PolicyServiceServicer_to_server(_Policy(script), server)
    add_TenantServiceServicer_to_server(_Tenants(script), server)
    add_LedgerServiceServicer_to_server(_Ledger(script), server)
    tls: TlsFiles = identities.service(service)
    port = server.add_secure_port("127.0.0.1:0", server_credentials(tls))
    server.start()
    try:
        yield ScriptedMesh(port, identities, identities.tenant("acme").certificate.parent)
    finally:
        script.ended.set()
        server.stop(None).wait()
