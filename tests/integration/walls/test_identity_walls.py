"""Nobody is somebody else: what a tenant claims about itself, or calls itself, changes nothing."""

import importlib
import pkgutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

import evenflow
from evenflow.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from tests.integration.walls.walled_mesh import Metadata, ask, asking, calls, service
from tests.integration.whole.mesh import Mesh
from tests.integration.whole.programs import until

GLOBEX = "spiffe://evenflow.local/tenant/globex/web"
OPERATOR = "spiffe://evenflow.local/service/operator"
FORGED: Sequence[tuple[str, str | bytes]] = (
    ("x-evenflow-tenant", "globex"),
    ("x-evenflow-tenant-bin", b"globex"),
    ("x-evenflow-workload", "admin"),
    ("x-evenflow-peer", GLOBEX),
    ("x-evenflow-listener", "front_end"),
    ("x-evenflow-pool", "vault"),
    ("x-evenflow-endpoints", "127.0.0.1:1"),
    ("x-evenflow-priority", "-100"),
    ("x-forwarded-client-cert", f"URI={GLOBEX}"),
    ("x-forwarded-client-cert", f"By={OPERATOR};URI={OPERATOR}"),
    ("authorization", "Bearer evf_of-somebody-else"),
)
DENIED = grpc.StatusCode.PERMISSION_DENIED
NOT_THERE = grpc.StatusCode.UNIMPLEMENTED
SERVED = {  # which packages' services each program serves
    "router": ("evenflow.router.v1",),
    "policy": ("evenflow.policy.v1",),
    "telemetry": ("evenflow.telemetry.v1",),
    "runtime": ("evenflow.runtime.v1",),
}


@pytest.mark.parametrize("header", FORGED, ids=[f"{name}={value!r}" for name, value in FORGED])
@pytest.mark.parametrize("times", [1, 2])
def test_a_forged_header_changes_nothing(
    mesh: Mesh, header: tuple[str, str | bytes], times: int
) -> None:
    told = ask(mesh, asking("hi"), metadata=(header,) * times)

    assert told.usage.output_tokens == 8
    explained = mesh.explain(told.started.request_id)
    assert (explained.tenant, explained.workload) == ("acme", "web")


@pytest.mark.parametrize("name", ["X-Evenflow-Tenant", "x_evenflow_tenant", "X-EVENFLOW-PEER"])
def test_nor_does_one_at_the_front_end(mesh: Mesh, name: str) -> None:
    answer = httpx.post(
        f"{mesh.frontend}/v1/chat/completions",
        headers={"authorization": f"Bearer {mesh.api_key('acme')}", name: "globex"},
        json={"model": "simulated", "messages": [{"role": "user", "content": "hi"}]},
        trust_env=False,
    )

    assert answer.status_code == 200
    assert mesh.explain(answer.headers["x-request-id"]).tenant == "acme"


def test_a_stolen_request_id_is_another_request(mesh: Mesh) -> None:
    """Neither what it did, nor what it does, nor its end: nothing of it is the thief's."""
    with calls(mesh.address, mesh.tenant("acme"), "gateway") as channel:
        stub: Any = InferenceServiceStub(channel)
        long = asking("a stream that runs")
        long.sampling.max_output_tokens = 60
        stream = stub.Generate(long, timeout=30)
        own = next(stream).started.request_id

        stolen: Metadata = (("x-request-id", own), ("x-evenflow-request-id", own))
        thief = ask(mesh, asking("mine now"), tenant="globex", metadata=stolen)
        _cancelled(mesh, metadata=stolen)
        rest = list(stream)

    assert thief.started.request_id != own
    assert rest[-1].finished.usage.output_tokens == 60
    until(lambda: mesh.explain(own).HasField("outcome"))
    assert mesh.explain(own).tenant == "acme"
    assert mesh.explain(thief.started.request_id).tenant == "globex"


def _cancelled(mesh: Mesh, *, metadata: Metadata) -> None:
    with calls(mesh.address, mesh.tenant("globex"), "gateway") as channel:
        stub: Any = InferenceServiceStub(channel)
        call = stub.Generate(asking("and away"), timeout=30, metadata=metadata)
        next(call)
        call.cancel()


def test_a_broken_stream_of_another_tenant_gives_nothing_to_who_resumes_it(mesh: Mesh) -> None:
    """All that a stream is carried on from is in the request itself."""
    prompt = "a stream of acme's, to be carried on " * 20
    ours = ask(mesh, asking(prompt))
    carried_on = asking(prompt)
    carried_on.resume.token_ids.extend(ours.token_ids[:4])

    theirs = ask(mesh, carried_on, tenant="globex")

    assert theirs.usage.cached_prompt_tokens == 0
    assert mesh.explain(theirs.started.request_id).tenant == "globex"


@pytest.mark.parametrize("server", SERVED)
def test_an_rpc_between_services_is_denied_to_a_tenant(mesh: Mesh, server: str) -> None:
    methods = list(_methods(SERVED[server]))
    assert methods

    for port in mesh.ports(server):
        codes = _codes(f"127.0.0.1:{port}", mesh.tenant("acme"), server, methods)
        # What another slice's contract names may not be served yet; what is, is denied.
        assert set(codes.values()) <= {DENIED, NOT_THERE}, codes
        assert DENIED in codes.values()


def test_the_gateway_leads_a_tenant_to_none_of_them(mesh: Mesh) -> None:
    methods = [each for package in SERVED.values() for each in _methods(package)]

    codes = _codes(mesh.address, mesh.tenant("acme"), "gateway", methods)

    assert set(codes.values()) <= {DENIED, NOT_THERE, grpc.StatusCode.NOT_FOUND}, codes


@pytest.mark.parametrize("who", ["acme", "globex", "policy", "telemetry", "router", "operator"])
def test_a_runtime_answers_the_gateway_alone(mesh: Mesh, who: str) -> None:
    folder = mesh.tenant(who) if who in ("acme", "globex") else service(mesh, who)
    claims = (("x-evenflow-tenant", "acme"), ("x-evenflow-cache-salt", "00"))

    with calls(mesh.runtimes[0], folder, "runtime") as channel:
        stub: Any = InferenceServiceStub(channel)
        answer = stub.Generate(asking("hi"), timeout=10, metadata=claims)
        with pytest.raises(grpc.RpcError) as refused:
            next(answer)

    assert refused.value.code() is DENIED


def _methods(packages: Sequence[str]) -> Iterator[str]:
    """`/package.Service/Method` of every contract of the packages."""
    for found in pkgutil.walk_packages(evenflow.__path__, "evenflow."):
        if found.name.endswith("_pb2") and found.name.startswith(tuple(packages)):
            for each in importlib.import_module(found.name).DESCRIPTOR.services_by_name.values():
                yield from (f"/{each.full_name}/{method.name}" for method in each.methods)


def _codes(
    address: str, folder: Path, server: str, methods: Sequence[str]
) -> dict[str, grpc.StatusCode]:
    """What each says to a caller with that certificate. An empty message is one of any kind."""
    with calls(address, folder, server) as channel:
        return {each: _code(channel, each) for each in methods}


def _code(channel: grpc.Channel, method: str) -> grpc.StatusCode:
    call: Any = channel.unary_stream(method, None, None)
    try:
        next(call(b"", timeout=10))
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    except StopIteration:
        pass
    return grpc.StatusCode.OK
