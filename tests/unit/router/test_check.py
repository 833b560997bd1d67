"""What Envoy gets for an answer."""

import base64
from typing import Any

import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from evenflow.inference.v1 import inference_service_pb2 as inference_pb
from evenflow.openai.v1 import chat_service_pb2 as openai_pb
from services.router.core.circuits import OPENS_AFTER, TRIED_AGAIN_AFTER_S, Outcome
from services.router.core.verdicts import Reason
from services.router.inbound.answers import (
    DEADLINE_EXCEEDED,
    FAILED,
    UNAVAILABLE,
    Answer,
    grpc_code,
)
from services.router.inbound.asked import Question
from services.router.inbound.check import Check
from services.router.inbound.mesh import Mesh
from tests.unit.router.values import (
    KEY,
    LIMITS,
    WEB,
    A,
    B,
    check_request,
    ended,
    endpoints,
    framed,
    generate,
    mesh,
    on_front_end,
    tenant,
)

CREATE = "/evenflow.openai.v1.ChatService/CreateChatCompletion"
NOW_S = 10.0
GRACE_S = 5.0


def answer(question: Question, of: Mesh | None = None, now_s: float = NOW_S) -> Answer:
    answered = Check(of or mesh(), LIMITS, grace_s=GRACE_S, clock=lambda: now_s)(question)
    assert isinstance(answered, Answer)
    return answered


def headers(answered: Answer) -> dict[str, str]:
    named = dict(answered.headers)
    assert len(named) == len(answered.headers)
    return named


def rich(response: Answer) -> Status:
    encoded = headers(response)["grpc-status-details-bin"]
    return Status.FromString(base64.b64decode(encoded + "=" * (-len(encoded) % 4)))


def reason(response: Answer) -> str:
    assert response.status != 200
    return headers(response)["x-evenflow-reason"]


def test_the_runtime_and_envoy_are_told_all_they_need() -> None:
    response = answer(check_request(grpc_timeout="5S"))

    assert response.status == 200
    salt = headers(response)["x-evenflow-cache-salt"]
    assert headers(response) == {
        "x-evenflow-request-id": "r1",
        "x-evenflow-tenant": "acme",
        "x-evenflow-workload": "web",
        "x-evenflow-workload-class": "interactive",
        "x-evenflow-priority": "0",
        "x-evenflow-cache-salt": salt,
        "x-evenflow-max-context-tokens": "4096",
        "x-evenflow-max-output-tokens": "1024",
        "grpc-timeout": "5000m",
        "x-envoy-upstream-rq-timeout-ms": "5000",
        "x-evenflow-endpoints": f"{A},{B},{A}",
    }
    assert len(salt) == 64


def test_a_batch_request_comes_after_the_others() -> None:
    response = answer(check_request(generate(workload_class=2)))

    assert headers(response)["x-evenflow-priority"] == "10"
    assert headers(response)["grpc-timeout"] == "600000m"


def test_each_admission_weighs_on_the_next_pick() -> None:
    shared = mesh()

    first = answer(check_request(x_request_id="r1"), shared)
    second = answer(check_request(x_request_id="r2"), shared)

    picks = [headers(each)["x-evenflow-endpoints"] for each in (first, second)]
    assert picks == [f"{A},{B},{A}", f"{B},{A},{B}"]


def test_a_half_open_circuit_is_tried_by_one_request() -> None:
    shared = mesh()
    for began in range(OPENS_AFTER):
        failed = Outcome(A, succeeded=False)
        shared.circuits.learn(failed, began_s=began, now_s=NOW_S - TRIED_AGAIN_AFTER_S)

    tried = answer(check_request(x_request_id="r1"), shared)
    shared.requests.end(ended("r1"))
    next_one = answer(check_request(x_request_id="r2"), shared)

    picks = [headers(each)["x-evenflow-endpoints"] for each in (tried, next_one)]
    assert picks == [f"{A},{B},{A}", f"{B},{B},{B}"]


def test_a_slot_waits_for_the_deadline_and_the_grace() -> None:
    shared = mesh()
    answer(check_request(grpc_timeout="5S"), shared)

    assert shared.requests.expire(NOW_S + 5.0 + GRACE_S - 0.001) == []
    assert len(shared.requests.expire(NOW_S + 5.0 + GRACE_S)) == 1


def test_a_repeated_request_id_is_replaced() -> None:
    shared = mesh()

    ids = {headers(answer(check_request(), shared))["x-evenflow-request-id"] for _ in range(3)}

    assert len(ids) == 3
    assert shared.requests.running() == 3


def test_a_request_whose_end_is_known_already_takes_no_slot() -> None:
    """Its caller left at once, and the access log was faster than the question."""
    shared = mesh()
    shared.requests.end(ended("r1", began_unix_s=1000.0000004))

    assert answer(check_request(), shared) == FAILED
    assert shared.requests.running() == 0


def test_another_request_of_an_id_that_envoy_refused_takes_one() -> None:
    shared = mesh()
    shared.requests.end(ended("r1", began_unix_s=999.0))

    said = headers(answer(check_request(), shared))

    assert said["x-evenflow-request-id"] != "r1"
    assert shared.requests.running() == 1


@pytest.mark.parametrize("claimed", ["", "x" * 129, "é", "a b", "a\r\nx: y", "a\n"])
def test_a_request_id_that_cannot_be_kept_is_replaced(claimed: str) -> None:
    response = answer(check_request(x_request_id=claimed))

    assert len(headers(response)["x-evenflow-request-id"]) == 36


def test_a_claimed_tenant_changes_nothing() -> None:
    response = answer(check_request(x_evenflow_tenant="globex", authorization=f"Bearer {KEY}"))

    assert headers(response)["x-evenflow-tenant"] == "acme"


def test_a_key_is_no_identity_on_the_mesh_listener() -> None:
    request = check_request(peer="", authorization=f"Bearer {KEY}")

    assert reason(answer(request)) == "UNKNOWN_IDENTITY"


@pytest.mark.parametrize(
    "peer", ["-", f"{WEB},{WEB}", f"{WEB},dns:x", f"{WEB}\r\na: b", f"{WEB} ", "*"]
)
def test_what_names_no_one_workload_is_nobody(peer: str) -> None:
    assert reason(answer(check_request(peer=peer))) == "UNKNOWN_IDENTITY"


def test_a_certificate_is_no_identity_on_the_front_end() -> None:
    request = check_request(x_evenflow_listener="frontend")

    assert reason(answer(request)) == "UNKNOWN_IDENTITY"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_key_is_an_identity_on_the_front_end(scheme: str) -> None:
    request = on_front_end(check_request(authorization=f"{scheme} {KEY}"), key=None)

    assert headers(answer(request))["x-evenflow-workload"] == "web"


@pytest.mark.parametrize(
    "authorization", ["", "Bearer", "Bearer ", f"Basic {KEY}", KEY, "Bearer x"]
)
def test_anything_but_a_key_is_nobody(authorization: str) -> None:
    request = on_front_end(check_request(authorization=authorization), key=None)

    assert reason(answer(request)) == "UNKNOWN_IDENTITY"


def test_the_routers_own_methods_get_an_identity_and_no_slot() -> None:
    shared = mesh()
    request = check_request(b"", path="/evenflow.inference.v1.InferenceService/ListModels")

    assert headers(answer(request, shared)) == {
        "x-evenflow-request-id": "r1",
        "x-evenflow-tenant": "acme",
        "x-evenflow-workload": "web",
    }
    assert shared.requests.running() == 0


def test_old_policy_is_acted_on_by_nobody() -> None:
    response = answer(check_request(), mesh(now_s=0.0), now_s=300.1)

    assert reason(response) == "POLICY_STALE"
    assert headers(response)["grpc-status"] == "14"


def test_a_grpc_caller_is_refused_with_a_rich_status() -> None:
    body = generate(sampling=inference_pb.Sampling(max_output_tokens=0))
    status = rich(answer(check_request(body)))

    info, bad = ErrorInfo(), BadRequest()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(bad)
    assert (status.code, info.reason, info.domain) == (3, "FIELD_INVALID", "evenflow")
    assert bad.field_violations[0].field == "sampling.max_output_tokens"


def test_a_grpc_caller_hears_when_to_come_back() -> None:
    shared = mesh()
    for address in (A, B):
        shared.endpoints.lost(address)
    status = rich(answer(check_request(), shared))

    retry = RetryInfo()
    assert status.details[1].Unpack(retry)
    assert (status.code, retry.retry_delay.seconds) == (14, 1)


def test_a_message_is_percent_encoded() -> None:
    response = answer(check_request(generate(model="100% é")), mesh(tenant(models=frozenset("*"))))

    assert headers(response)["grpc-message"] == "no runtime serves the model '100%25 \\xe9'"


def openai(**completion: Any) -> Question:
    fields = openai_pb.ChatCompletion(**{"model": "small", **completion})
    message = openai_pb.CreateChatCompletionRequest(completion=fields)
    return on_front_end(check_request(framed(message.SerializeToString()), path=CREATE))


@pytest.mark.parametrize(
    ("request_", "http", "field", "reason_"),
    [
        (openai(max_tokens=0), 400, "max_tokens", "FIELD_INVALID"),
        (openai(model="none"), 404, "model", "MODEL_NOT_FOUND"),
        (openai(workload_class="high_risk"), 403, "workload_class", "WORKLOAD_CLASS_NOT_ALLOWED"),
        (openai(max_tokens=9999), 429, "max_tokens", "OUTPUT_LIMIT"),
    ],
)
def test_an_openai_caller_is_told_status_field_and_reason(
    request_: Question, http: int, field: str, reason_: str
) -> None:
    response = answer(request_)

    assert response.status == http
    assert headers(response)["x-evenflow-field"] == field
    assert reason(response) == reason_


def test_a_wrong_key_is_a_401() -> None:
    response = answer(on_front_end(check_request(), key="wrong"))

    assert response.status == 401
    assert reason(response) == "UNKNOWN_IDENTITY"


def test_an_openai_caller_hears_when_to_come_back() -> None:
    response = answer(openai(), Mesh(*_without_endpoints()))

    assert response.status == UNAVAILABLE
    assert headers(response)["retry-after"] == "1"


def test_a_limit_that_waiting_does_not_lift_is_not_to_be_tried_again() -> None:
    assert headers(answer(openai(max_tokens=9999)))["x-should-retry"] == "false"


def test_a_refusal_takes_no_slot_and_can_be_explained() -> None:
    shared = mesh()
    answer(check_request(b""), shared)

    decision = shared.requests.find("r1").decision
    assert decision is not None
    assert (decision.refusal, decision.queue_wait_s) == (Reason.BODY_INVALID, None)
    assert shared.requests.running() == 0


@pytest.mark.parametrize("timeout", ["0S", "0n"])
def test_a_deadline_that_has_passed_is_refused(timeout: str) -> None:
    response = answer(check_request(grpc_timeout=timeout))

    assert (response.status, reason(response)) == (DEADLINE_EXCEEDED, "DEADLINE")


@pytest.mark.parametrize("timeout", ["", "5", "S", "-1S", "123456789S", "5s", "٣S"])
def test_a_deadline_that_grpc_does_not_know_is_refused_by_name(timeout: str) -> None:
    request = check_request(grpc_timeout=timeout)

    bad = BadRequest()
    assert rich(answer(request)).details[1].Unpack(bad)
    assert bad.field_violations[0].field == "grpc-timeout"


def test_every_reason_has_a_code() -> None:
    assert all(0 < grpc_code(each) <= 16 for each in Reason)


def _without_endpoints() -> tuple[Any, ...]:
    whole = mesh()
    known = endpoints(A)
    known.lost(A)
    return whole.policy, known, whole.requests, whole.salts, whole.circuits
