"""What can be seen of others from outside: no metric, no trace, no model that is not one's own."""

import asyncio
import re
import ssl
from typing import Any

import grpc
import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

from evenflow.client import Client
from tests.integration.walls.walled_mesh import ask, asking, calls
from tests.integration.whole.mesh import Mesh
from tests.integration.whole.programs import until

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_stub: Any = TraceServiceStub  # it has no types
_TENANT_LABEL = re.compile(r'tenant="([^"]*)"')


def test_metrics_are_not_shown_to_a_tenant(mesh: Mesh) -> None:
    folder = mesh.tenant("acme")
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    context.check_hostname = False  # the certificate names telemetry.evenflow.local
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")

    with httpx.Client(verify=context, trust_env=False) as client:
        answer = client.get(f"https://127.0.0.1:{mesh.prometheus_port}/metrics")

    assert answer.status_code == 403
    assert "tenant=" not in answer.text


def test_labels_are_what_policy_names_and_nothing_that_a_caller_says(mesh: Mesh) -> None:
    forged = (("x-evenflow-tenant", "forged"), ("x-evenflow-workload-class", "forged"))
    ask(mesh, asking("counted"), metadata=forged)
    with pytest.raises(grpc.RpcError):
        ask(mesh, asking("counted", model="forged"))

    until(lambda: 'tenant="acme"' in mesh.metrics())
    page = mesh.metrics()

    assert set(_TENANT_LABEL.findall(page)) <= {"acme", "globex", "nobody", "other"}
    assert 'workload_class="forged"' not in page


def test_a_trace_id_that_two_tenants_send_joins_nothing_of_theirs(mesh: Mesh) -> None:
    """Spans go to the operator's collector alone; each has its own request and tenant."""
    trace = (("traceparent", TRACE),)
    ours = ask(mesh, asking("ours"), metadata=trace)
    theirs = ask(mesh, asking("theirs"), tenant="globex", metadata=trace)

    assert ours.started.request_id != theirs.started.request_id
    assert mesh.explain(ours.started.request_id).tenant == "acme"
    assert mesh.explain(theirs.started.request_id).tenant == "globex"


def test_a_tenant_can_put_no_span_into_a_trace(mesh: Mesh) -> None:
    where = f"127.0.0.1:{mesh.ports('telemetry')[0]}"

    with calls(where, mesh.tenant("acme"), "telemetry") as channel:
        stub: Any = _stub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            stub.Export(ExportTraceServiceRequest(), timeout=10)

    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_models_that_a_tenant_may_not_use_are_not_listed_to_it(mesh: Mesh) -> None:
    file = mesh.home / "tenants.yaml"
    before = file.read_text()
    first, _, second = before.rpartition('models: ["*"]')

    async def listed(tenant: str) -> list[str]:
        async with Client(mesh.address, certificate_folder=mesh.tenant(tenant)) as client:
            return [each.name for each in await client.list_models()]

    file.write_text(f"{first}models: [another]{second}")
    try:
        until(lambda: asyncio.run(listed("globex")) == [])
        assert asyncio.run(listed("acme")) == ["simulated"]
    finally:
        file.write_text(before)
        until(lambda: asyncio.run(listed("globex")) == ["simulated"])
