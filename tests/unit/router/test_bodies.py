"""What a request asks for, out of bytes that a stranger sent."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenflow.inference.v1 import inference_service_pb2 as inference_pb
from evenflow.openai.v1 import chat_service_pb2 as openai_pb
from services.router.core.demands import Demand, InvalidDemand, WorkloadClass
from services.router.inbound.bodies import InvalidBody, demand_of
from tests.unit.router.values import GENERATE, framed, generate

CREATE = "/evenflow.openai.v1.ChatService/CreateChatCompletion"
STREAM = "/evenflow.openai.v1.ChatService/StreamChatCompletion"
METHODS = [
    GENERATE,
    CREATE,
    STREAM,
    "/evenflow.inference.v1.InferenceService/Tokenize",
    "/evenflow.inference.v1.InferenceService/CountTokens",
]


def generated(**fields: Any) -> Demand:
    demand = demand_of(GENERATE, generate(**fields))
    assert demand is not None
    return demand


def completed(**fields: Any) -> Demand:
    completion = openai_pb.ChatCompletion(**{"model": "small", **fields})
    request = openai_pb.CreateChatCompletionRequest(completion=completion)
    demand = demand_of(CREATE, framed(request.SerializeToString()))
    assert demand is not None
    return demand


def test_token_ids_are_counted_exactly() -> None:
    tokens = inference_pb.TokenInput(ids=[1, 2, 3])

    assert (generated(tokens=tokens).prompt.tokens, generated(tokens=tokens).prompt.exact) == (
        3,
        True,
    )


def test_text_is_estimated_by_its_length() -> None:
    prompt = generated(text="x" * 4000).prompt

    assert 1000 <= prompt.tokens <= 1010
    assert not prompt.exact


def test_the_class_and_the_output_are_read() -> None:
    demand = generated(
        workload_class=2, sampling=inference_pb.Sampling(max_output_tokens=7, temperature=0.5)
    )

    assert demand.workload_class is WorkloadClass.BATCH
    assert demand.output is not None
    assert demand.output.at_most_tokens == 7


def test_what_is_not_said_stays_open() -> None:
    demand = generated()

    assert demand.workload_class is None
    assert demand.output is not None
    assert demand.output.at_most_tokens is None


def test_openais_newer_name_for_the_limit_wins() -> None:
    demand = completed(max_tokens=5, max_completion_tokens=9)

    assert demand.output is not None
    assert (demand.output.at_most_tokens, demand.output.field) == (9, "max_completion_tokens")


def test_openai_callers_name_their_class() -> None:
    assert completed(workload_class="high_risk").workload_class is WorkloadClass.HIGH_RISK
    with pytest.raises(InvalidDemand, match="workload_class: must be one of") as caught:
        completed(workload_class="urgent")
    assert caught.value.field == "workload_class"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"model": ""}, "model"),
        ({"model": "x" * 201}, "model"),
        ({"text": None}, "input"),
        ({"workload_class": 9}, "workload_class"),
        (
            {"sampling": inference_pb.Sampling(max_output_tokens=0)},
            "sampling.max_output_tokens",
        ),
        (
            {"sampling": inference_pb.Sampling(max_output_tokens=-(2**63))},
            "sampling.max_output_tokens",
        ),
    ],
)
def test_a_field_that_cannot_be_meant_is_named(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidDemand) as caught:
        generated(**fields)

    assert caught.value.field == field


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "got 0 bytes"),
        (b"\0\0\0\0", "got 4 bytes"),
        (b"\1" + generate()[1:], "compressed"),
        (generate()[:-1], "one message of"),
        (generate() + b"\0", "one message of"),
        (generate() * 2, "one message of"),
        (framed(b"\x0a\xff"), "must hold a evenflow.inference.v1.GenerateRequest"),
        (framed(b"\x0a\x01\xff"), "must hold a evenflow.inference.v1.GenerateRequest"),
    ],
    ids=["empty", "short", "compressed", "cut", "longer", "two", "truncated", "no UTF-8"],
)
def test_a_body_that_is_no_message_is_refused(body: bytes, problem: str) -> None:
    with pytest.raises(InvalidBody, match=problem):
        demand_of(GENERATE, body)


def test_the_routers_own_methods_have_no_demand() -> None:
    assert demand_of("/evenflow.inference.v1.InferenceService/ListModels", b"junk") is None


@settings(deadline=None)  # a busy machine is no fault
@given(method=st.sampled_from(METHODS), junk=st.binary(max_size=200), in_a_frame=st.booleans())
def test_no_bytes_are_more_than_refused(method: str, junk: bytes, *, in_a_frame: bool) -> None:
    with suppress(InvalidBody, InvalidDemand):
        demand_of(method, framed(junk) if in_a_frame else junk)


@settings(deadline=None)  # a busy machine is no fault
@given(st.data())
def test_a_damaged_message_is_no_more_than_refused(data: st.DataObject) -> None:
    body = bytearray(generate(sampling=inference_pb.Sampling(max_output_tokens=7)))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))

    with suppress(InvalidBody, InvalidDemand):
        demand_of(GENERATE, bytes(body))
