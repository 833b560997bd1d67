"""Whatever a client asks a runtime for is a demand that can be run, or an error naming a field."""

import json
import random
from collections.abc import Callable
from typing import TypeVar, cast

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenflow.inference.v1 import inference_service_pb2 as pb
from evenflow.openai.v1 import chat_service_pb2 as openai_pb
from services.runtime.core import simulated_text
from services.runtime.core.demands import Demand
from services.runtime.core.engine import InvalidInput, Job
from services.runtime.core.prompts import NO_PROMPT
from services.runtime.core.sampling import InvalidSampling, Sampling
from services.runtime.core.schemas import checked
from services.runtime.inbound import chat_requests, generation
from services.runtime.inbound.owners import Owner
from tests.fuzz.messages import SCHEMAS, TEXTS, chat_completions, generate_requests

T = TypeVar("T")

KEYS = [
    *("request-id", "tenant", "workload", "workload-class", "priority", "cache-salt"),
    *("max-context-tokens", "max-output-tokens", "what"),
]
METADATA = st.dictionaries(
    st.sampled_from([f"x-evenflow-{key}" for key in KEYS]),
    st.integers().map(str)
    | TEXTS
    | st.sampled_from(["9" * 5000, "٣", "-0"])
    | st.binary(max_size=4),
)


def refused(call: Callable[[], T]) -> T | None:
    """What it returns; None when it was refused with a field and a message that fits a trailer."""
    try:
        return call()
    except (InvalidInput, InvalidSampling) as error:
        problem = error
    assert problem.field
    assert len(str(problem)) < 1000
    return None


def runs(demand: Demand) -> None:
    """The simulated engine writes something for it."""
    job = Job("r1", (1, 2), min(demand.max_output_tokens or 5, 5), demand.sampling, 0, "salt")
    rng = random.Random(0)  # noqa: S311 - must repeat
    answer = refused(lambda: simulated_text.Answer(job, rng, mean_tokens=4))
    if answer is not None:
        answer.write()


@given(generate_requests())
@settings(deadline=None)
def test_a_generate_request_is_a_demand_or_names_its_field(request: pb.GenerateRequest) -> None:
    decode = generation._demand  # noqa: SLF001 - what the servicer decodes with
    demand = refused(lambda: decode(request, NO_PROMPT))
    if demand is not None:
        runs(demand)


@given(chat_completions())
@settings(deadline=None)
def test_a_chat_completion_is_a_demand_or_names_its_field(chat: openai_pb.ChatCompletion) -> None:
    chat_requests.field_names(chat)
    demand = refused(lambda: chat_requests.demand(chat, NO_PROMPT))
    if demand is not None:
        runs(demand)


@given(SCHEMAS)
@settings(deadline=None)
def test_a_schema_that_is_let_in_is_json_and_bounded(schema: object) -> None:
    text = json.dumps(schema)
    sampling = refused(lambda: Sampling(json_schema=text))
    found = refused(lambda: checked(text)) if sampling else None

    json.dumps(found, allow_nan=False).encode()


@given(METADATA)
def test_an_owner_is_whole_or_names_the_key(metadata: dict[str, str | bytes]) -> None:
    class Call:
        def invocation_metadata(self) -> list[tuple[str, str | bytes]]:
            return list(metadata.items())

    owner = refused(lambda: Owner.of(cast(grpc.aio.ServicerContext, Call())))

    assert owner is None or owner.priority >= 0


@pytest.mark.parametrize("messages", [4097, 100_000])
def test_more_messages_than_anybody_needs_are_refused_unread(messages: int) -> None:
    chat = openai_pb.ChatCompletion(messages=[openai_pb.Message()] * messages)
    request = pb.GenerateRequest(chat=pb.ChatInput(messages=[pb.ChatMessage()] * messages))

    with pytest.raises(InvalidInput) as of_openai:
        chat_requests.demand(chat, NO_PROMPT)
    with pytest.raises(InvalidInput) as of_ours:
        generation._demand(request, NO_PROMPT)  # noqa: SLF001 - as above

    assert of_openai.value.field == "messages"
    assert of_ours.value.field == "chat.messages"
