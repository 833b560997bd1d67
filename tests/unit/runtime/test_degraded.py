"""What the router degrades, the runtime does, and says what it has done."""

import asyncio
import json
from pathlib import Path
from typing import Any

import grpc
import pytest

from evenflow.inference.v1 import inference_service_pb2 as pb
from evenflow.openai.v1 import chat_service_pb2 as openai_pb
from services.runtime.core.simulation import Behaviour
from services.runtime.outbound.simulated import SimulatedEngine
from tests.fakes.runtime_mesh import asking, owner, plain, refusal, running
from tests.unit.runtime.test_chat import completion

SAID = "x-evenflow-degradations"
CAPPED = {"degradations": "smaller_output=saturated", "output_cap": "4"}
CUT = {"degradations": "smaller_context=saturated", "context_cap": "60"}
BEHAVIOUR = Behaviour(step_s=0.001, kv_blocks=64, max_context_tokens=1024, max_running=4)
TALK = (
    (pb.ROLE_SYSTEM, "Be brief."),
    (pb.ROLE_USER, "word " * 100),
    (pb.ROLE_ASSISTANT, "word " * 100),
    (pb.ROLE_USER, "And now?"),
)


def served(folder: Path, request: Any, *, of: str = "simulated", **said: str) -> Any:
    """The answer to such a request, and its headers. `of`: the engine's model."""

    async def scenario() -> Any:
        engine = SimulatedEngine(BEHAVIOUR, model=of)
        async with running(folder, engine) as runtime, runtime.called_by("gateway") as stubs:
            metadata = owner(**said)
            if isinstance(request, pb.GenerateRequest):
                call = stubs.inference.Generate(request, metadata=metadata, timeout=5)
            elif isinstance(request, openai_pb.StreamChatCompletionRequest):
                call = stubs.chat.StreamChatCompletion(request, metadata=metadata, timeout=5)
            else:
                call = stubs.chat.CreateChatCompletion(request, metadata=metadata, timeout=5)
                return await call, plain(await call.initial_metadata())
            messages = [message async for message in call]
            return messages, plain(await call.initial_metadata())

    return asyncio.run(scenario())


def generated(
    folder: Path, request: pb.GenerateRequest, **said: str
) -> tuple[pb.Started, pb.Finished, dict[str, str]]:
    events, headers = served(folder, request, **said)
    started, finished = events[0].started, events[-1].finished
    done = ",".join(f"{each.rung}={each.reason}" for each in started.degradations)
    assert headers.get(SAID, "") == done
    return started, finished, headers


def talking(*talk: tuple[Any, str], **sampling: Any) -> pb.GenerateRequest:
    messages = [pb.ChatMessage(role=role, content=text) for role, text in talk]
    return pb.GenerateRequest(
        model="simulated", chat=pb.ChatInput(messages=messages), sampling=pb.Sampling(**sampling)
    )


@pytest.mark.parametrize("asked", [{}, {"max_output_tokens": 300}])
def test_a_smaller_output_is_cut_and_said(tmp_path: Path, asked: dict[str, Any]) -> None:
    started, finished, headers = generated(tmp_path, asking(ignore_eos=True, **asked), **CAPPED)

    assert [(each.rung, each.reason) for each in started.degradations] == [
        ("smaller_output", "saturated")
    ]
    assert finished.reason == pb.FINISH_REASON_LENGTH
    assert finished.usage.output_tokens == 4
    assert headers[SAID] == "smaller_output=saturated"


def test_what_was_small_enough_is_not_degraded(tmp_path: Path) -> None:
    started, finished, headers = generated(
        tmp_path, asking(ignore_eos=True, max_output_tokens=4), **CAPPED
    )

    assert (list(started.degradations), SAID in headers) == ([], False)
    assert finished.usage.output_tokens == 4


def test_a_cap_never_refuses_what_would_not_fit_without_it(tmp_path: Path) -> None:
    _, finished, _ = generated(tmp_path, asking(ignore_eos=True, max_output_tokens=5000), **CAPPED)

    assert finished.usage.output_tokens == 4


def test_the_tenants_own_limit_still_refuses_and_still_cuts(tmp_path: Path) -> None:
    _, finished, headers = generated(
        tmp_path, asking(ignore_eos=True), **CAPPED, max_output_tokens="3"
    )
    assert (finished.usage.output_tokens, SAID in headers) == (3, False)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        generated(tmp_path, asking(max_output_tokens=4), **CAPPED, max_output_tokens="3")
    assert refusal(caught.value).reason == "OUTPUT_LIMIT"


def test_a_smaller_context_leaves_out_old_turns(tmp_path: Path) -> None:
    _, whole, _ = generated(tmp_path, talking(*TALK, max_output_tokens=1))
    started, cut, _ = generated(tmp_path, talking(*TALK, max_output_tokens=1), **CUT)
    _, rest, _ = generated(tmp_path, talking(TALK[0], TALK[3], max_output_tokens=1))

    assert whole.usage.prompt_tokens > 200
    assert cut.usage.prompt_tokens == rest.usage.prompt_tokens < 60
    assert [each.rung for each in started.degradations] == ["smaller_context"]


def test_a_chat_that_fits_is_not_degraded(tmp_path: Path) -> None:
    started, _, headers = generated(tmp_path, talking(TALK[3], max_output_tokens=1), **CUT)

    assert (list(started.degradations), SAID in headers) == ([], False)


def test_text_is_not_cut(tmp_path: Path) -> None:
    started, finished, _ = generated(tmp_path, asking("word " * 100, max_output_tokens=1), **CUT)

    assert finished.usage.prompt_tokens > 60
    assert list(started.degradations) == []


def test_a_chat_above_the_models_context_is_cut_to_fit(tmp_path: Path) -> None:
    long = (pb.ROLE_USER, "word " * 2000)
    _, finished, _ = generated(tmp_path, talking(long, TALK[3], max_output_tokens=1), **CUT)

    assert finished.usage.prompt_tokens < 60


def test_another_model_answers_and_says_so(tmp_path: Path) -> None:
    told = {"degradations": "fallback_model=model_unhealthy", "model": "tiny"}
    asked = pb.GenerateRequest(model="large", text="hi", sampling=pb.Sampling(max_output_tokens=1))

    started, _, headers = generated(tmp_path, asked, of="tiny", **told)

    assert started.model == "tiny"
    assert headers[SAID] == "fallback_model=model_unhealthy"


def test_all_that_was_done_is_said_in_the_routers_order(tmp_path: Path) -> None:
    told = {
        "degradations": "smaller_context=saturated,later=unknown,smaller_output=deadline_at_risk",
        "output_cap": "2",
        "context_cap": "60",
    }
    started, _, headers = generated(tmp_path, talking(*TALK), **told)

    assert headers[SAID] == "smaller_context=saturated,smaller_output=deadline_at_risk"
    assert len(started.degradations) == 2


@pytest.mark.parametrize("stream", [False, True])
def test_openais_callers_are_told_in_a_header(tmp_path: Path, *, stream: bool) -> None:
    chat = completion(model="large", ignore_eos=True)
    made = (
        openai_pb.StreamChatCompletionRequest if stream else openai_pb.CreateChatCompletionRequest
    )
    told = {
        "degradations": "fallback_model=model_unhealthy,smaller_output=saturated",
        "output_cap": "2",
        "model": "tiny",
    }
    answer, headers = served(tmp_path, made(completion=chat), of="tiny", **told)

    assert headers[SAID] == told["degradations"]
    if stream:
        first = json.loads(answer[0].events.data.removeprefix(b"data: "))
        assert first["model"] == "tiny"
    else:
        assert (answer.model, answer.usage.completion_tokens) == ("tiny", 2)


@pytest.mark.parametrize("key", ["output_cap", "context_cap"])
def test_a_cap_that_is_no_number_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        generated(tmp_path, asking(), degradations="smaller_output=saturated", **{key: "-1"})

    assert refusal(caught.value).field == f"x-evenflow-{key.replace('_', '-')}"
