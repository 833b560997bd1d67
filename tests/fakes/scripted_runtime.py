"""A runtime that answers as a test says, and keeps what reached it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from google.api.httpbody_pb2 import HttpBody

from evenflow.inference.v1 import inference_service_pb2 as inference
from evenflow.inference.v1.inference_service_pb2_grpc import InferenceServiceServicer
from evenflow.openai.v1 import chat_service_pb2 as chat
from evenflow.openai.v1.chat_service_pb2_grpc import ChatServiceServicer

Script = Callable[[Any], AsyncIterator[Any]]  # the call's context -> what to answer


@dataclass(frozen=True, slots=True)
class Call:
    request: Any
    metadata: dict[str, str | bytes]
    peer: str


_HEAD = '{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m",'


def event(data: str) -> Any:
    """One event of an OpenAI stream."""
    body = HttpBody(content_type="text/event-stream", data=f"data: {data}\n\n".encode())
    return chat.StreamChatCompletionResponse(events=body)


def chunk(text: str) -> Any:
    """One chunk of an OpenAI stream."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return event(f'{_HEAD}"choices":[{json.dumps(choice)}]}}')


def done() -> Any:
    """What a stream that went well ends with."""
    return event("[DONE]")


def completion(text: str) -> Any:
    """A whole OpenAI answer."""
    message = chat.AnswerMessage(role="assistant", content=text)
    return chat.CreateChatCompletionResponse(
        id="chatcmpl-1",
        object="chat.completion",
        created=1,
        model="m",
        choices=[chat.Choice(index=0, message=message, finish_reason="stop")],
        usage=chat.CompletionUsage(prompt_tokens=3, completion_tokens=1, total_tokens=4),
    )


def delta(text: str) -> Any:
    """One message of Generate."""
    return inference.GenerateResponse(delta=inference.Delta(text=text, tokens=1))


def in_two_parts(go_on: asyncio.Event) -> Script:
    """Generate's "a" at once, "b" when told to."""

    async def script(_: Any) -> AsyncIterator[Any]:
        yield delta("a")
        await go_on.wait()
        yield delta("b")

    return script


class ScriptedRuntime(ChatServiceServicer, InferenceServiceServicer):
    """Set `script`; read `calls`. `cancelled` is set when a call is cancelled under it."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.calls: list[Call] = []
        self.cancelled = asyncio.Event()

    async def CreateChatCompletion(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's
        async for answer in self._play(request, context):
            return answer
        raise AssertionError("a unary script must answer or abort")

    async def StreamChatCompletion(  # noqa: N802 - gRPC's name
        self, request: Any, context: Any
    ) -> AsyncIterator[Any]:
        async for answer in self._play(request, context):
            yield answer

    async def Generate(  # noqa: N802 - gRPC's name
        self, request: Any, context: Any
    ) -> AsyncIterator[Any]:
        async for answer in self._play(request, context):
            yield answer

    async def Tokenize(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        return inference.TokenizeResponse(ids=[1, 2, 3])

    async def CountTokens(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        return inference.CountTokensResponse(tokens=3)

    async def ListModels(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        raise AssertionError("the router lists models, not a runtime")

    async def _play(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.calls.append(Call(request, dict(context.invocation_metadata()), context.peer()))
        try:
            async for answer in self.script(context):
                yield answer
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
