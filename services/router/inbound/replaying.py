"""Gives an answer of the response cache again: the upstream to which Envoy takes a hit.

Only what Check has promised, for this very request. The text goes as it was kept; what names one
request is filled in anew. One message for the text and not one for each token, which would cost as
much as asking an engine.
"""

from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
from google.api.httpbody_pb2 import HttpBody

from evenflow.inference.v1 import inference_service_pb2 as pb
from evenflow.openai.v1 import chat_service_pb2 as openai_pb
from services.chassis.status import ErrorTable, Status
from services.router.core.replays import Replay, Replays, UnknownReplay
from services.router.core.response_cache import Answer
from services.router.inbound.resources.names import PROMPT_HEADER, REQUEST_ID_HEADER

ERRORS: ErrorTable = {UnknownReplay: Status(grpc.StatusCode.UNAVAILABLE, "NO_ENDPOINT")}
ENGINE = "cache"  # what answered, to the access log
_HIT = (("x-evenflow-cache", "hit"),)
# As the runtime leaves them: at the beginning of each event, before any text of the answer.
_BLANK_ID, _BLANK_TIME = b'"id":""', b'"created":0'


class Replaying:
    def __init__(self, replays: Replays) -> None:
        self._replays = replays

    async def generate(self, _: bytes, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        request_id, replay = await self._begin(context)
        for each in _generated(replay, request_id):
            yield each

    async def stream(self, _: bytes, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        request_id, replay = await self._begin(context)
        yield _streamed(replay, request_id)

    async def create(self, _: bytes, context: grpc.aio.ServicerContext) -> bytes:
        request_id, replay = await self._begin(context)
        return _completed(replay, request_id)

    async def _begin(self, context: grpc.aio.ServicerContext) -> tuple[str, Replay]:
        request_id, prompt = (_said(context, each) for each in (REQUEST_ID_HEADER, PROMPT_HEADER))
        replay = self._replays.take(request_id)
        context.set_trailing_metadata(tuple(_trailers(replay.answer)))
        named = ((PROMPT_HEADER, prompt),) if prompt else ()
        await context.send_initial_metadata((*_HIT, *named))
        return request_id, replay


def add_replaying_to_server(replaying: Replaying, server: Any) -> None:
    streaming, unary = grpc.unary_stream_rpc_method_handler, grpc.unary_unary_rpc_method_handler
    # Requests are not read, and answers are bytes already.
    handlers = {
        "evenflow.inference.v1.InferenceService": {
            "Generate": streaming(replaying.generate, request_deserializer=bytes)
        },
        "evenflow.openai.v1.ChatService": {
            "StreamChatCompletion": streaming(replaying.stream, request_deserializer=bytes),
            "CreateChatCompletion": unary(replaying.create, request_deserializer=bytes),
        },
    }
    server.add_generic_rpc_handlers(
        tuple(grpc.method_handlers_generic_handler(*each) for each in handlers.items())
    )


def _said(context: grpc.aio.ServicerContext, name: str) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == name:
            return str(value)
    return ""


def _trailers(answer: Answer) -> Iterable[tuple[str, str]]:
    yield "x-evenflow-prompt-tokens", str(answer.usage.prompt_tokens)
    yield "x-evenflow-cached-tokens", str(answer.usage.cached_prompt_tokens)
    yield "x-evenflow-output-tokens", str(answer.usage.output_tokens)
    yield "x-evenflow-model-version", answer.model_version
    yield "x-evenflow-engine", ENGINE


def _generated(replay: Replay, request_id: str) -> Iterable[bytes]:
    begin, *rest = replay.answer.messages
    first = pb.GenerateResponse.FromString(begin)
    first.started.request_id = request_id
    first.started.cached = True
    return first.SerializeToString(), *rest


def _completed(replay: Replay, request_id: str) -> bytes:
    response = openai_pb.CreateChatCompletionResponse.FromString(replay.answer.messages[0])
    response.id = f"chatcmpl-{request_id}"
    response.created = int(replay.received_unix_s)
    return response.SerializeToString()


def _streamed(replay: Replay, request_id: str) -> bytes:
    name = f'"id":"chatcmpl-{request_id}"'.encode()
    time = f'"created":{int(replay.received_unix_s)}'.encode()
    events = (
        openai_pb.StreamChatCompletionResponse.FromString(each).events.data
        for each in replay.answer.messages
    )
    filled = (each.replace(_BLANK_ID, name, 1).replace(_BLANK_TIME, time, 1) for each in events)
    body = HttpBody(content_type="text/event-stream", data=b"".join(filled))
    return openai_pb.StreamChatCompletionResponse(events=body).SerializeToString()
