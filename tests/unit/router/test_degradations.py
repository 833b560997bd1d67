"""Degradations on the wire: to the runtime, and from its answer to line, record and Explain."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from evenflow.inference.v1 import inference_service_pb2 as inference_pb
from services.router.core.demands import WorkloadClass
from services.router.core.endpoints import RuntimeState
from services.router.core.requests import Request
from services.router.core.rungs import (
    Degradation,
    Degraded,
    FallbackModel,
    Refuse,
    Rung,
    SmallerContext,
    SmallerOutput,
    Trigger,
)
from services.router.core.tenants import ClassRules, Tenants
from services.router.core.verdicts import Reason
from services.router.degradations import degradations_said, degradations_text
from services.router.inbound.access_log import write_line
from services.router.inbound.answers import Answer
from services.router.inbound.check import Check
from services.router.inbound.log_entries import ended as ended_of
from services.router.inbound.mesh import Mesh
from services.router.inbound.operator import explained
from services.router.outbound.records import Record, message
from tests import virtual_time
from tests.unit.router.test_log_entries import USAGE, entry
from tests.unit.router.values import (
    LIMITS,
    A,
    B,
    check_request,
    decision,
    ended,
    generate,
    headers_of,
    mesh,
    model,
    state,
    tenant,
)

NOW_S = 10.0
SATURATED, UNHEALTHY = Trigger.SATURATED, Trigger.MODEL_UNHEALTHY
SMALLER = (Degradation("smaller_output", "saturated"),)
TALK = inference_pb.ChatInput(
    messages=[inference_pb.ChatMessage(role=inference_pb.ROLE_USER, content="word " * 900)]
)


def laddered(
    *ladder: Rung, of: WorkloadClass = WorkloadClass.INTERACTIVE, models: str = "*"
) -> Mesh:
    """A serves `small`, and is full; B serves `tiny`."""
    made = mesh()
    caller = tenant(
        models=frozenset(models.split()),
        workload_classes=frozenset(WorkloadClass),
        default_workload_class=of,
    )
    made.policy.replaced(Tenants("v1", (caller,), {of: ClassRules(ladder=ladder)}), NOW_S)
    seen(made, A, state(max_running=1, running=1, waiting=1), NOW_S)
    seen(made, B, state(model(model="tiny")), NOW_S)
    return made


def seen(of: Mesh, address: str, said: RuntimeState, now_s: float) -> None:
    of.endpoints.saw(address, said)
    of.line.flow.saturation.saw(of.endpoints.get(address), now_s)


def lost(of: Mesh, address: str) -> None:
    of.endpoints.lost(address)
    of.line.flow.saturation.changed(of.endpoints.get(address))


def answer(of: Mesh, request_id: str = "r1", **asked: Any) -> tuple[int, dict[str, str]]:
    """Where it has to wait, A has room again at once."""

    async def scenario() -> Answer:
        check = Check(of, LIMITS, grace_s=5.0, clock=lambda: NOW_S)
        answered = check(check_request(generate(**asked), x_request_id=request_id))
        if isinstance(answered, Answer):
            return answered
        replies: list[Answer] = []
        answered.reply = replies.append
        seen(of, A, state(max_running=1), asyncio.get_running_loop().time())
        of.line.stir()
        await asyncio.sleep(0)
        return replies[0]

    said = virtual_time.run(scenario())
    return said.status, dict(said.headers)


def test_the_runtime_is_told_what_to_cut_and_why() -> None:
    of = laddered(SmallerOutput(SATURATED, 64), SmallerContext(SATURATED, 256))

    status, headers = answer(of, chat=TALK)

    assert status == 200
    said = "smaller_output=saturated,smaller_context=saturated"
    assert headers["x-evenflow-degradations"] == said
    assert headers["x-evenflow-output-cap"] == "64"
    assert headers["x-evenflow-context-cap"] == "256"
    assert "x-evenflow-model" not in headers
    assert headers["x-evenflow-endpoints"] == f"{A},{A},{A}"
    decided = of.requests.find("r1").decision
    assert decided is not None
    assert (decided.prompt_tokens, decided.output_tokens) == (256, 64)
    assert of.requests.load(A).tokens == 320


def test_another_model_answers_where_it_is_served() -> None:
    of = laddered(FallbackModel(UNHEALTHY, "tiny"))
    lost(of, A)

    status, headers = answer(of)

    assert status == 200
    assert headers["x-evenflow-model"] == "tiny"
    assert headers["x-evenflow-degradations"] == "fallback_model=model_unhealthy"
    assert headers["x-evenflow-endpoints"] == f"{B},{B},{B}"
    decided = of.requests.find("r1").decision
    assert decided is not None
    assert (decided.model, decided.answering) == ("small", "tiny")


def test_a_tenant_is_not_given_a_model_that_it_may_not_use() -> None:
    of = laddered(FallbackModel(UNHEALTHY, "tiny"), models="small")
    lost(of, A)

    status, headers = answer(of)

    assert (status, headers["x-evenflow-reason"]) == (463, "NO_ENDPOINT")
    assert "x-evenflow-degradations" not in headers
    why = explained("r1", of.requests.find("r1"))
    assert list(why.skipped_rungs) == [
        "fallback_model=model_unhealthy: tenant acme may not use tiny"
    ]


def test_a_request_that_the_ladder_refuses_may_come_back() -> None:
    status, headers = answer(laddered(Refuse(SATURATED)))

    assert (status, headers["x-evenflow-reason"]) == (463, "SHED")
    assert headers["grpc-message"] == "the ladder of interactive refuses requests now: saturated"
    assert (headers["grpc-status"], headers["retry-after"]) == ("14", "1")
    assert headers["x-evenflow-degradations"] == "refuse=saturated"


def test_a_deadline_at_risk_is_met_by_a_shorter_answer_or_refused_at_once() -> None:
    late = Trigger.DEADLINE_AT_RISK
    of = laddered(SmallerOutput(late, 50), Refuse(late))
    seen(of, A, state(), NOW_S)
    of.experience.paces.learn("small", first_token_s=1.0, duration_s=10.9, tokens=100)
    check = Check(of, LIMITS, grace_s=5.0, clock=lambda: NOW_S)

    def said(timeout: str) -> dict[str, str]:
        asked = check_request(x_request_id=timeout, grpc_timeout=timeout)
        return {**headers_of(check(asked))}

    assert "x-evenflow-degradations" not in said("11S")
    assert said("7S")["x-evenflow-degradations"] == "smaller_output=deadline_at_risk"
    assert said("5S")["x-evenflow-reason"] == "SHED"


def test_high_risk_is_left_as_it_is_whatever_a_snapshot_says() -> None:
    of = laddered(
        SmallerOutput(SATURATED, 1), FallbackModel(SATURATED, "tiny"), of=WorkloadClass.HIGH_RISK
    )
    status, headers = answer(of)

    assert (status, headers["x-evenflow-endpoints"]) == (200, f"{A},{A},{A}")
    assert not {"x-evenflow-degradations", "x-evenflow-output-cap"} & headers.keys()


def test_without_pressure_nothing_is_said() -> None:
    of = laddered(SmallerOutput(SATURATED, 64), Refuse(UNHEALTHY))
    seen(of, A, state(max_running=2, running=1), NOW_S)

    _, headers = answer(of)

    assert "x-evenflow-degradations" not in headers


def test_estimates_are_corrected_by_what_was_counted() -> None:
    of = laddered()
    answer(of, "r1", text="x" * 400)
    first = of.requests.find("r1").decision
    assert first is not None
    for _ in range(100):
        of.experience.learn(first, ended())

    answer(of, "r2", text="x" * 400)
    again = of.requests.find("r2").decision
    assert again is not None
    assert (again.estimate, again.answering) == (first.estimate, "small")
    assert again.prompt_tokens < first.prompt_tokens / 2


def test_what_the_runtime_did_is_what_is_told() -> None:
    decided = decision(
        degraded=Degraded((*SMALLER, Degradation("smaller_context", "saturated")), ("x: y",))
    )
    logged = entry(grpc_status="0", **USAGE)
    logged.response.response_headers["x-evenflow-degradations"] = "smaller_output=saturated"
    end = ended_of(logged)
    request = Request(decided, end)

    assert end.degradations == SMALLER
    with capture_logs() as logs:
        write_line(request, end)
    assert logs[0]["degraded"] == "smaller_output=saturated"
    record = message(Record(request, end))
    assert [(each.rung, each.reason) for each in record.degradations] == [
        ("smaller_output", "saturated")
    ]
    why = explained("r1", request)
    assert [each.rung for each in why.degradations] == ["smaller_output"]
    assert list(why.skipped_rungs) == ["x: y"]


def test_until_it_has_ended_a_request_is_explained_by_what_was_decided() -> None:
    why = explained("r1", Request(decision(degraded=Degraded(SMALLER))))

    assert [(each.rung, each.reason) for each in why.degradations] == [
        ("smaller_output", "saturated")
    ]


def test_a_refusal_by_the_ladder_is_in_its_record() -> None:
    refused = decision(
        refusal=Reason.SHED, degraded=Degraded((Degradation("refuse", "saturated"),))
    )
    record = message(Record(Request(refused), ended(usage=None, first_token_s=None)))

    assert [each.rung for each in record.degradations] == ["refuse"]
    assert record.reason == "SHED"


@pytest.mark.parametrize("text", ["", "=", "a", ",,", "a=,b"])
def test_what_is_no_degradation_is_left_out(text: str) -> None:
    assert degradations_said(text) == ()


@given(st.text(max_size=500))
def test_whatever_an_answer_says_is_read_within_bounds(text: str) -> None:
    said = degradations_said(text)

    assert len(said) <= 16
    assert all(len(each.rung) <= 64 and len(each.reason) <= 64 for each in said)


NAMES = st.from_regex(r"[a-z_]{1,20}", fullmatch=True)


@given(st.lists(st.builds(Degradation, NAMES, NAMES), max_size=16))
def test_what_is_written_is_read(taken: list[Degradation]) -> None:
    assert degradations_said(degradations_text(taken)) == tuple(taken)
