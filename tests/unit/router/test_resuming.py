"""Which streams are carried on, by policy, and what those that are count as."""

from typing import Any

import pytest

from evenflow.inference.v1 import inference_service_pb2 as pb
from evenflow.openai.v1 import chat_service_pb2 as openai_pb
from services.router.core.demands import Demand, WorkloadClass
from services.router.core.resuming import carried_on
from services.router.core.tenants import ClassRules
from services.router.core.verdicts import Admitted, Reason, Refused
from services.router.inbound.check import Check
from services.router.inbound.mesh import Mesh
from services.router.inbound.operator import explained
from services.router.outbound.records import Record, message
from tests.unit.router.values import (
    LIMITS,
    A,
    check_request,
    demand,
    ended,
    framed,
    generate,
    headers_of,
    mesh,
)

CHAT = "/evenflow.openai.v1.ChatService/StreamChatCompletion"
ALLOWED = ClassRules(resume=True)
ADMITTED = Admitted(WorkloadClass.INTERACTIVE, (), (A,), 10, 100, 5.0)
BATCH = 2


def resuming() -> Mesh:
    return mesh(classes={WorkloadClass.INTERACTIVE: ALLOWED})


def headers(of: Mesh, *question: Any, **more: Any) -> dict[str, str]:
    check = Check(of, LIMITS, grace_s=5.0, clock=lambda: 10.0)
    return {**headers_of(check(check_request(*question, **more)))}


def carrying(tokens: int, **sampling: Any) -> bytes:
    resume = pb.Resume(token_ids=range(tokens))
    return generate(resume=resume, sampling=pb.Sampling(**sampling))


def test_the_runtime_is_told_of_a_class_that_asks_for_it() -> None:
    assert headers(resuming())["x-evenflow-resumable"] == "1"


def test_and_of_no_other() -> None:
    chat = openai_pb.ChatCompletion(model="small")
    body = framed(openai_pb.StreamChatCompletionRequest(completion=chat).SerializeToString())

    assert "x-evenflow-resumable" not in headers(mesh())
    assert "x-evenflow-resumable" not in headers(resuming(), generate(workload_class=BATCH))
    assert "x-evenflow-resumable" not in headers(resuming(), body, path=CHAT)


def test_a_client_can_not_ask_for_it_where_policy_does_not() -> None:
    refused = headers(mesh(), carrying(3))

    assert refused["x-evenflow-reason"] == "RESUME_NOT_ALLOWED"
    assert refused["x-evenflow-field"] == "resume"


@pytest.mark.parametrize("body", [carrying(0), carrying(11, max_output_tokens=10), carrying(513)])
def test_nothing_and_too_much_are_refused_by_field(body: bytes) -> None:
    refused = headers(resuming(), body)

    assert refused["x-evenflow-reason"] == "FIELD_INVALID"
    assert refused["x-evenflow-field"] == "resume.token_ids"


def test_what_was_written_counts_as_prompt_and_against_the_output() -> None:
    verdict = carried_on(ADMITTED, demand(resumed_tokens=30), ALLOWED)

    assert isinstance(verdict, Admitted)
    assert (verdict.prompt_tokens, verdict.output_tokens) == (40, 70)
    assert verdict.tokens == ADMITTED.tokens


def test_all_of_the_output_may_have_been_written() -> None:
    verdict = carried_on(ADMITTED, demand(resumed_tokens=100), ALLOWED)

    assert isinstance(verdict, Admitted)
    assert verdict.output_tokens == 0


@pytest.mark.parametrize(
    ("asked", "rules"),
    [
        (demand(), ALLOWED),
        (demand(resumed_tokens=0), ALLOWED),
        (demand(resumed_tokens=0), ClassRules()),
        (demand(), ClassRules()),
    ],
)
def test_others_stay_as_they_are(asked: Demand, rules: ClassRules) -> None:
    assert carried_on(ADMITTED, asked, rules) is ADMITTED


def test_a_refusal_names_the_class() -> None:
    verdict = carried_on(ADMITTED, demand(resumed_tokens=1), ClassRules())

    assert isinstance(verdict, Refused)
    assert (verdict.reason, verdict.workload_class) == (
        Reason.RESUME_NOT_ALLOWED,
        WorkloadClass.INTERACTIVE,
    )


def test_the_tenant_s_output_limit_is_for_all_of_the_answer() -> None:
    refused = headers(resuming(), carrying(1000, max_output_tokens=1025))

    assert refused["x-evenflow-reason"] == "OUTPUT_LIMIT"


def test_a_text_s_size_does_not_grow_with_what_was_written() -> None:
    shared = resuming()
    headers(shared, generate(sampling=pb.Sampling()), x_request_id="plain")
    headers(shared, carrying(200), x_request_id="resumed")

    plain, resumed = (shared.requests.find(each).decision for each in ("plain", "resumed"))

    assert plain is not None
    assert resumed is not None
    assert resumed.prompt_tokens == plain.prompt_tokens + 200


def test_explanations_and_records_say_how_much_was_resumed() -> None:
    shared = resuming()
    headers(shared, carrying(20))
    end = ended("r1")
    request = shared.requests.end(end)

    assert request is not None
    assert explained("r1", request).resumed_tokens == 20
    assert message(Record(request, end)).resumed_tokens == 20
