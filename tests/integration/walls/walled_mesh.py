"""One mesh, two tenants that may do the same, and one runtime, so that both meet in its caches."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from deploy.local.aside import aside
from evenflow.connection import Connection
from evenflow.home import salt_file, service_folder, service_name
from evenflow.inference.v1 import inference_service_pb2 as pb
from evenflow.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from evenflow.inference.v1.workload_class_pb2 import WORKLOAD_CLASS_BATCH
from services.router.core.demands import WorkloadClass
from services.router.core.salts import CacheSalts, secret_in_force
from services.router.core.tenants import Caller, Tenant
from tests.integration.whole.mesh import Mesh
from tests.integration.whole.programs import until

SIMULATED = {"RUNTIME_SIMULATED_STEP_S": "0.02", "RUNTIME_MAX_CONTEXT_TOKENS": "4096"}
_CLASSES = "\nclasses:\n  batch:\n    cache_ttl_s: 600\n  interactive:\n    resume: true\n"
LONG = "Which way does the river flow, and since when? " * 30
_POLICY_WITHIN_S = 30.0

Metadata = Sequence[tuple[str, str | bytes]]


@dataclass(frozen=True, slots=True)
class Told:
    events: Sequence[pb.GenerateResponse]

    @property
    def started(self) -> pb.Started:
        return self.events[0].started

    @property
    def usage(self) -> pb.Usage:
        return self.events[-1].finished.usage

    @property
    def token_ids(self) -> list[int]:
        return [each for event in self.events for each in event.delta.token_ids]


def asking(prompt: str, **fields: Any) -> pb.GenerateRequest:
    sampling = pb.Sampling(temperature=0, max_output_tokens=8, ignore_eos=True)
    values = {"model": "simulated", "text": prompt, "sampling": sampling, **fields}
    return pb.GenerateRequest(**values)


def batch(prompt: str) -> pb.GenerateRequest:
    """Whose answer is kept."""
    return asking(prompt, workload_class=WORKLOAD_CLASS_BATCH)


def ask(
    mesh: Mesh, request: pb.GenerateRequest, *, tenant: str = "acme", metadata: Metadata = ()
) -> Told:
    with calls(mesh.address, mesh.tenant(tenant), "gateway") as channel:
        stub: Any = InferenceServiceStub(channel)
        return Told(list(stub.Generate(request, timeout=30, metadata=metadata)))


@contextmanager
def calls(address: str, folder: Path, server: str) -> Iterator[grpc.Channel]:
    with Connection(address, folder, service_name(server)).blocking_channel() as channel:
        yield channel


def service(mesh: Mesh, name: str) -> Path:
    return service_folder(mesh.home, name)


def salt_of(mesh: Mesh, tenant: str) -> str:
    """As the router makes it: who knows this has the mesh's secret."""
    salts = CacheSalts(secret_in_force(salt_file(mesh.home).read_bytes()))
    known = Tenant(
        id=tenant,
        spiffe_ids=(),
        api_keys=(),
        models=frozenset(),
        workload_classes=frozenset(WorkloadClass),
        default_workload_class=WorkloadClass.INTERACTIVE,
        max_context_tokens=0,
        max_output_tokens=0,
    )
    return salts.of(Caller(known, "web"), WorkloadClass.INTERACTIVE)


@contextmanager
def walled_mesh() -> Iterator[Mesh]:
    with aside("simulate", SIMULATED, runtimes=1) as started:
        mesh = Mesh(
            home=started.home,
            model="simulated",
            process=started.process,
            single_ports=started.ports,
            runtime_ports=started.runtime_ports,
        )
        file = mesh.home / "tenants.yaml"
        file.write_text(file.read_text().replace("[smollm2-135m-instruct]", '["*"]') + _CLASSES)
        until(lambda: _may_ask(mesh), within_s=_POLICY_WITHIN_S)
        yield mesh


def _may_ask(mesh: Mesh) -> bool:
    try:
        return bool(ask(mesh, asking("hi"), tenant="globex").events)
    except grpc.RpcError:
        return False
