"""High-risk requests have runtimes of their own, and when these are away they have none."""

from collections.abc import Iterator

import grpc
import pytest

from evenflow.inference.v1 import inference_service_pb2 as pb
from evenflow.inference.v1.workload_class_pb2 import WORKLOAD_CLASS_HIGH_RISK
from tests.integration.walls.walled_mesh import ask, asking
from tests.integration.whole.mesh import Mesh, running
from tests.integration.whole.programs import Programs, until

CAREFUL = "\nclasses:\n  high_risk:\n    pool: careful\n"
WITHIN_S = 30.0


@pytest.fixture(scope="module")
def pooled() -> Iterator[Mesh]:
    """The second runtime of two is in the pool of the class."""
    environ = {"RUNTIME_2_POOL": "careful"}
    with running(command="simulate", model="simulated", environ=environ) as mesh:
        file = mesh.home / "tenants.yaml"
        file.write_text(file.read_text() + CAREFUL)
        until(lambda: _went_to(mesh, risky()) == mesh.runtimes[1], within_s=WITHIN_S)
        yield mesh


def risky() -> pb.GenerateRequest:
    return asking("hi", workload_class=WORKLOAD_CLASS_HIGH_RISK)


def _went_to(mesh: Mesh, request: pb.GenerateRequest) -> str:
    return ask(mesh, request).started.endpoint


def test_high_risk_and_all_else_meet_nowhere_and_nothing_replaces_the_pool(pooled: Mesh) -> None:
    shared, careful = pooled.runtimes
    assert {_went_to(pooled, risky()) for _ in range(8)} == {careful}
    assert {_went_to(pooled, asking(f"question {n}")) for n in range(8)} == {shared}

    Programs(pooled.home).freeze("runtime-2")
    try:
        until(lambda: _refused(pooled) is grpc.StatusCode.UNAVAILABLE, within_s=WITHIN_S)
        assert _went_to(pooled, asking("hi")) == shared
    finally:
        Programs(pooled.home).thaw("runtime-2")


def _refused(mesh: Mesh) -> grpc.StatusCode | None:
    try:
        assert _went_to(mesh, risky()) != mesh.runtimes[0]
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return None
