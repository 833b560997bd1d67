"""Policy is away for longer than its word holds: all is refused, with when to come back."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import grpc
import httpx
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_status import rpc_status

from evenflow.connection import Connection
from evenflow.home import service_name
from evenflow.inference.v1 import inference_service_pb2 as pb
from evenflow.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from tests.integration.whole.mesh import Mesh, running
from tests.integration.whole.programs import Programs, until

STALE_S = 7.0  # policy gives a sign of life every 5 s
GOES_STALE_WITHIN_S = STALE_S + 2.0
WELL_WITHIN_S = 15.0  # Python's imports, and the router's next try
DEADLINE_S = 5.0
ASKED: dict[str, Any] = {"model": "simulated", "messages": [{"role": "user", "content": "hi"}]}
Do = Callable[[Programs], None]
Away = tuple[Do, Do]
AWAY: dict[str, Away] = {
    "stopped": (
        lambda it: it.control.stop("policy"),
        lambda it: it.control.start("policy"),
    ),
    "frozen": (lambda it: it.freeze("policy"), lambda it: it.thaw("policy")),
}


@dataclass(frozen=True, slots=True)
class Refusal:
    code: grpc.StatusCode
    reason: str
    retry_after_s: float


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    environ = {"ROUTER_POLICY_STALE_S": str(STALE_S)}
    with running(command="simulate", model="simulated", environ=environ) as started:
        yield started


@pytest.fixture(params=AWAY)
def without_policy(mesh: Mesh, request: pytest.FixtureRequest) -> Callable[[], None]:
    """Policy is away; call it to have it back."""
    go, come_back = AWAY[request.param]
    programs = Programs(mesh.home)
    until(lambda: refusal(mesh) is None, within_s=WELL_WITHIN_S)
    go(programs)
    return lambda: come_back(programs)


def refusal(mesh: Mesh) -> Refusal | None:
    """Of a raw stub's call; None: it was answered."""
    door = Connection(mesh.address, mesh.tenant("acme"), service_name("gateway"))
    ask = pb.GenerateRequest(model="simulated", text="hi")
    ask.sampling.max_output_tokens = 2
    with door.blocking_channel() as calls:
        try:
            list(InferenceServiceStub(calls).Generate(ask, timeout=DEADLINE_S))
        except grpc.RpcError as error:
            return _read(cast(Any, error))
    return None


def _read(error: Any) -> Refusal:
    info, retry = ErrorInfo(), RetryInfo()
    details = rpc_status.from_call(error).details
    for message in (info, retry):
        assert any(each.Unpack(message) for each in details), details
    delay = retry.retry_delay
    return Refusal(error.code(), info.reason, delay.seconds + delay.nanos / 1e9)


def openai(mesh: Mesh) -> httpx.Response:
    headers = {"authorization": f"Bearer {mesh.api_key('acme')}"}
    with httpx.Client(base_url=mesh.frontend, headers=headers, trust_env=False) as client:
        return client.post("/v1/chat/completions", json={**ASKED, "max_tokens": 2})


def test_themis_refused_while_policy_is_stale_and_served_when_it_is_back(
    mesh: Mesh, without_policy: Callable[[], None]
) -> None:
    assert refusal(mesh) is None, "its last word holds for a while"
    stale_s = until(lambda: refusal(mesh) is not None, within_s=GOES_STALE_WITHIN_S)
    refused, answer = refusal(mesh), openai(mesh)
    without_policy()
    until(lambda: refusal(mesh) is None, within_s=WELL_WITHIN_S)

    assert stale_s > 1.0
    assert refused == Refusal(grpc.StatusCode.UNAVAILABLE, "POLICY_STALE", 1.0)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "POLICY_STALE")
    assert answer.headers["retry-after"] == "1"
    assert openai(mesh).status_code == 200
