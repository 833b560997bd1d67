"""OpenAI's chat completions over real gRPC, on the simulated engine."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest
from google.protobuf import json_format

from evenflow.openai.v1 import chat_service_pb2 as pb
from services.runtime.core.simulation import Behaviour
from services.runtime.outbound.simulated import SimulatedEngine
from tests.fakes.runtime_mesh import Refusal, Stubs, owner, plain, refusal, running

T = TypeVar("T")
DONE = "[DONE]"
Json = dict[str, Any]

QUICK = Behaviour(step_s=0.001, max_context_tokens=1024)
HELLO: Json = {"model": "simulated", "messages": [{"role": "user", "content": "Hello"}]}


def completion(**changed: Any) -> pb.ChatCompletion:
    """As Envoy's transcoder reads it from a client's JSON."""
    return json_format.ParseDict({**HELLO, **changed}, pb.ChatCompletion())


def against(
    folder: Path, body: Callable[[Stubs], Awaitable[T]], *, behaviour: Behaviour = QUICK
) -> T:
    async def scenario() -> T:
        async with (
            running(folder, SimulatedEngine(behaviour)) as runtime,
            runtime.called_by("gateway") as stubs,
        ):
            return await body(stubs)

    return asyncio.run(scenario())


def created(folder: Path, **changed: Any) -> pb.CreateChatCompletionResponse:
    async def body(stubs: Stubs) -> Any:
        request = pb.CreateChatCompletionRequest(completion=completion(**changed))
        return await stubs.chat.CreateChatCompletion(request, metadata=owner(), timeout=5)

    answer: pb.CreateChatCompletionResponse = against(folder, body)
    return answer


def streamed(
    folder: Path, *, behaviour: Behaviour = QUICK, **changed: Any
) -> tuple[list[Any], grpc.StatusCode, dict[str, str]]:
    """The events' data; `[DONE]` as it is."""

    async def body(stubs: Stubs) -> Any:
        request = pb.StreamChatCompletionRequest(completion=completion(**changed))
        call = stubs.chat.StreamChatCompletion(request, metadata=owner(), timeout=1)
        text = b""
        try:
            async for message in call:
                assert message.events.content_type == "text/event-stream"
                text += message.events.data
        except grpc.aio.AioRpcError:
            pass  # what came before a failure counts
        *events, rest = text.decode().split("\n\n")
        assert rest == ""
        chunks = [_data(event) for event in events]
        return chunks, await call.code(), plain(await call.trailing_metadata())

    chunks, code, trailers = against(folder, body, behaviour=behaviour)
    return chunks, code, trailers


def _data(event: str) -> Any:
    data = event.removeprefix("data: ")
    return DONE if data == DONE else json.loads(data)


def refused(folder: Path, **changed: Any) -> Refusal:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        created(folder, **changed)
    return refusal(caught.value)


def test_an_answer_in_one_piece(tmp_path: Path) -> None:
    answer = created(tmp_path, max_tokens=8, ignore_eos=True)

    assert answer.id == "chatcmpl-r-1"
    assert answer.object == "chat.completion"
    assert answer.created > 1_700_000_000
    assert (answer.model, answer.system_fingerprint) == ("simulated", "simulated")
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content.startswith("[simulated]")
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 8


def test_a_stream_says_its_role_once_and_its_reason_last(tmp_path: Path) -> None:
    (*chunks, last), code, _ = streamed(tmp_path, max_completion_tokens=4, ignore_eos=True)

    assert code is grpc.StatusCode.OK
    assert last == DONE
    assert [chunk["choices"][0]["delta"].get("role") for chunk in chunks] == [
        "assistant",
        *[None] * 3,
    ]
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None, None, None, "length"]
    assert {(chunk["id"], chunk["object"], chunk["created"]) for chunk in chunks} == {
        ("chatcmpl-r-1", "chat.completion.chunk", chunks[0]["created"])
    }
    assert not any("usage" in chunk for chunk in chunks)


def test_usage_comes_last_if_asked_for(tmp_path: Path) -> None:
    (*_, usage, _), _, _ = streamed(tmp_path, max_tokens=4, stream_options={"include_usage": True})

    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 4
    assert usage["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}


def test_a_streams_logprobs_are_openais(tmp_path: Path) -> None:
    (chunk, *_), _, _ = streamed(tmp_path, max_tokens=2, logprobs=True, top_logprobs=1)

    (token,) = chunk["choices"][0]["logprobs"]["content"]
    assert token["token"] == "[simulated]"
    assert bytes(token["bytes"]) == b"[simulated]"
    assert [set(each) for each in token["top_logprobs"]] == [{"token", "logprob", "bytes"}]


def test_content_may_be_parts(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]

    whole = created(tmp_path, temperature=0)
    in_parts = created(tmp_path, temperature=0, messages=[{"role": "user", "content": parts}])

    assert in_parts.choices[0].message.content == whole.choices[0].message.content
    assert in_parts.usage.prompt_tokens == whole.usage.prompt_tokens


def test_a_developer_speaks_as_the_system(tmp_path: Path) -> None:
    def tokens(role: str) -> int:
        said = [{"role": role, "content": "Be brief."}, *HELLO["messages"]]
        return created(tmp_path / role, messages=said).usage.prompt_tokens

    (tmp_path / "developer").mkdir()
    (tmp_path / "system").mkdir()

    assert tokens("developer") == tokens("system")


@pytest.mark.parametrize("stop", [" No", ["nothing", " No"]])
def test_stop_is_a_string_or_a_list(tmp_path: Path, stop: object) -> None:
    answer = created(tmp_path, stop=stop)

    assert answer.choices[0].message.content == "[simulated]"
    assert answer.choices[0].finish_reason == "stop"


def test_logprobs_come_with_their_alternatives(tmp_path: Path) -> None:
    answer = created(tmp_path, max_tokens=2, logprobs=True, top_logprobs=2)

    tokens = answer.choices[0].logprobs.content
    assert [token.token for token in tokens] == ["[simulated]", " No"]
    assert [len(token.top_logprobs) for token in tokens] == [2, 2]
    assert bytes(tokens[1].bytes) == b" No"


def test_a_schemas_whole_numbers_stay_whole(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"ages": {"type": "array", "minItems": 2}}}
    asked = {"type": "json_schema", "json_schema": {"name": "ages", "schema": schema}}

    answer = created(tmp_path, response_format=asked)

    assert answer.choices[0].message.content == '{"ages": [null, null]}'


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"n": 2}, "n"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"top_p": 1.5}, "top_p"),
        ({"temperature": 3}, "temperature"),
        ({"stop": 5}, "stop"),
        ({"stop": ["a", 5]}, "stop"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"max_tokens": 5000}, "max_tokens"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "judge", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0].type",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_by_openais_name(
    tmp_path: Path, changed: Json, field: str
) -> None:
    end = refused(tmp_path, **changed)

    assert end.code is grpc.StatusCode.INVALID_ARGUMENT
    assert end.field == end.trailers["x-evenflow-field"] == field


def test_a_penalty_of_zero_is_what_clients_send_by_default(tmp_path: Path) -> None:
    created(tmp_path, presence_penalty=0, frequency_penalty=0, n=1, stop=None, logit_bias={})


def test_a_failure_before_the_first_token_is_a_status(tmp_path: Path) -> None:
    behaviour = Behaviour(prefill_per_token_s=1.0)

    chunks, code, trailers = streamed(tmp_path, behaviour=behaviour)

    assert (chunks, code) == ([], grpc.StatusCode.DEADLINE_EXCEEDED)
    assert trailers["x-evenflow-reason"] == "DEADLINE"


@pytest.mark.parametrize(
    ("behaviour", "reason", "expected"),
    [
        (Behaviour(step_s=0.05), "DEADLINE", grpc.StatusCode.DEADLINE_EXCEEDED),
        (
            Behaviour(step_s=0.001, crash_after_tokens=20),
            "ENGINE_FAILED",
            grpc.StatusCode.UNAVAILABLE,
        ),
    ],
    ids=["deadline", "crash"],
)
def test_a_failure_after_the_first_token_is_the_last_chunk(
    tmp_path: Path, behaviour: Behaviour, reason: str, expected: grpc.StatusCode
) -> None:
    chunks, code, trailers = streamed(
        tmp_path, behaviour=behaviour, max_tokens=500, ignore_eos=True
    )

    assert len(chunks) > 2
    assert chunks[-1]["error"]["code"] == trailers["x-evenflow-reason"] == reason
    assert chunks[-1]["error"]["type"] == "server_error"
    assert code is expected
    assert int(trailers["x-evenflow-output-tokens"]) == len(chunks) - 1
