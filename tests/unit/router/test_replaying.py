"""What a caller gets of an answer that was kept, over a real socket."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.api.httpbody_pb2 import HttpBody

from evenflow.inference.v1 import inference_service_pb2 as pb
from evenflow.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from evenflow.openai.v1 import chat_service_pb2 as openai_pb
from evenflow.openai.v1.chat_service_pb2_grpc import ChatServiceStub
from services.chassis.environ import Address
from services.chassis.identity import channel
from services.chassis.interception import Interceptor, Wrapped
from services.chassis.server import grpc_server
from services.chassis.status import Statuses
from services.router.core.endings import Usage
from services.router.core.replays import Replay, Replays
from services.router.core.response_cache import Answer
from services.router.inbound.replaying import ERRORS, Replaying, add_replaying_to_server

USAGE = Usage(3, 1, 4)
ASKED = (("x-evenflow-request-id", "r1"),)
# What the text says must not be taken for what the head leaves blank.
TRICKY = 'say "id":"" and "created":0, please'


def replayed(
    folder: Path, messages: tuple[Any, ...], call: Callable[[grpc.aio.Channel], Awaitable[Any]]
) -> Any:
    """`messages` were kept, and promised to r1."""

    async def scenario() -> Any:
        replays = Replays()
        answer = Answer("v7", USAGE, tuple(each.SerializeToString() for each in messages))
        replays.promise("r1", Replay(answer, 1234.9), 0.0)
        server = grpc_server(errors={}, callers=None, tls=None, services=(), bare=True)
        wrapped = Wrapped(server.grpc, Interceptor([Statuses(ERRORS)]))
        add_replaying_to_server(Replaying(replays), wrapped)
        server.listen(Address(f"unix:{folder}/router.sock"), None)
        await server.start()
        try:
            async with (
                asyncio.timeout(10),
                channel(f"unix:{folder}/router.sock", None, server="router") as calls,  # type: ignore[arg-type] # no TLS on a unix socket
            ):
                return await call(calls)
        finally:
            await server.grpc.stop(None)

    return asyncio.run(scenario())


def events(text: str) -> tuple[pb.GenerateResponse, ...]:
    return (
        pb.GenerateResponse(started=pb.Started(model="small", engine="vllm", endpoint="a:1")),
        pb.GenerateResponse(delta=pb.Delta(text=text, tokens=4)),
        pb.GenerateResponse(finished=pb.Finished(reason=pb.FINISH_REASON_STOP)),
    )


def sse(text: str) -> openai_pb.StreamChatCompletionResponse:
    body = HttpBody(content_type="text/event-stream", data=text.encode())
    return openai_pb.StreamChatCompletionResponse(events=body)


def test_generate_is_given_again_for_a_new_request(tmp_path: Path) -> None:
    async def call(calls: grpc.aio.Channel) -> Any:
        stub: Any = InferenceServiceStub(calls)
        stream = stub.Generate(pb.GenerateRequest(), metadata=ASKED)
        got = [each async for each in stream]
        return got, dict(await stream.initial_metadata()), dict(await stream.trailing_metadata())

    got, headers, trailers = replayed(tmp_path, events("hello"), call)

    first, *rest = events("hello")
    first.started.request_id = "r1"
    first.started.cached = True
    assert got == [first, *rest]
    assert headers["x-evenflow-cache"] == "hit"
    assert trailers == {
        "x-evenflow-prompt-tokens": "3",
        "x-evenflow-cached-tokens": "1",
        "x-evenflow-output-tokens": "4",
        "x-evenflow-model-version": "v7",
        "x-evenflow-engine": "cache",
    }


def test_openais_stream_is_one_message_with_its_own_id(tmp_path: Path) -> None:
    chunk = {"id": "", "object": "chat.completion.chunk", "created": 0, "model": "small"}
    said = {**chunk, "choices": [{"index": 0, "delta": {"content": TRICKY}}]}
    compact = json.JSONEncoder(separators=(",", ":")).encode(said)

    async def call(calls: grpc.aio.Channel) -> Any:
        stub: Any = ChatServiceStub(calls)
        stream = stub.StreamChatCompletion(openai_pb.StreamChatCompletionRequest(), metadata=ASKED)
        return [each async for each in stream]

    kept = (sse(f"data: {compact}\n\n"), sse("data: [DONE]\n\n"))
    (got,) = replayed(tmp_path, kept, call)

    event, end = got.events.data.decode().removesuffix("\n\n").split("\n\n")
    assert got.events.content_type == "text/event-stream"
    assert end == "data: [DONE]"
    assert json.loads(event.removeprefix("data: ")) == {
        **said,
        "id": "chatcmpl-r1",
        "created": 1234,
    }


def test_openais_answer_has_its_own_id(tmp_path: Path) -> None:
    answer = openai_pb.CreateChatCompletionResponse(
        model="small",
        choices=[openai_pb.Choice(message=openai_pb.AnswerMessage(content=TRICKY))],
    )

    async def call(calls: grpc.aio.Channel) -> Any:
        stub: Any = ChatServiceStub(calls)
        request = openai_pb.CreateChatCompletionRequest()
        return await stub.CreateChatCompletion(request, metadata=ASKED)

    got = replayed(tmp_path, (answer,), call)

    assert (got.id, got.created) == ("chatcmpl-r1", 1234)
    assert got.choices == answer.choices


@pytest.mark.parametrize("metadata", [(), (("x-evenflow-request-id", "r2"),)])
def test_what_was_not_promised_is_not_given(tmp_path: Path, metadata: Any) -> None:
    async def call(calls: grpc.aio.Channel) -> Any:
        stub: Any = InferenceServiceStub(calls)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            async for _ in stub.Generate(pb.GenerateRequest(), metadata=metadata):
                pass
        return refused.value

    refused = replayed(tmp_path, events("hello"), call)

    assert refused.code() is grpc.StatusCode.UNAVAILABLE
    assert dict(refused.trailing_metadata())["x-evenflow-reason"] == "NO_ENDPOINT"
