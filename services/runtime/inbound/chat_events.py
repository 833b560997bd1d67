"""Writes OpenAI's streams: server-sent events whose data is a chunk in JSON.

As text and not as messages for Envoy to print, which would cost it more for each token than all
else that it does with it (docs/performance.md).
"""

import json

from google.api.httpbody_pb2 import HttpBody
from google.protobuf import json_format
from google.protobuf.message import Message

from evenflow.openai.v1 import chat_service_pb2 as pb
from services.chassis.status import Status
from services.runtime.core.engine import Step
from services.runtime.inbound.chat_answers import Heading, logprobs_of, usage
from services.runtime.inbound.reports import Report

_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Events:
    """Of one answer. What all its chunks repeat is encoded once."""

    def __init__(self, heading: Heading) -> None:
        head = {
            "id": heading.id,
            "object": "chat.completion.chunk",
            "created": heading.created,
            "model": heading.model,
            "system_fingerprint": heading.system_fingerprint,
        }
        self._head = f"data: {_json(head)[:-1]},"

    def chunk(self, step: Step, *, first: bool) -> pb.StreamChatCompletionResponse:
        role = '"role":"assistant",' if first else ""
        finish = "null" if step.finish_reason is None else f'"{step.finish_reason.value}"'
        logprobs = logprobs_of(step.logprobs)
        return self._event(
            f'"choices":[{{"index":0,"delta":{{{role}"content":{_json(step.text)}}},'
            f'"logprobs":{"null" if logprobs is None else _printed(logprobs)},'
            f'"finish_reason":{finish}}}]'
        )

    def usage(self, report: Report) -> pb.StreamChatCompletionResponse:
        return self._event(f'"choices":[],"usage":{_printed(usage(report))}')

    def error(self, error: Exception, status: Status) -> pb.StreamChatCompletionResponse:
        """The last word of a stream that failed after its first token."""
        said = pb.Error(message=str(error), type="server_error", code=status.reason)
        return self._event(f'"choices":[],"error":{_printed(said)}')

    def _event(self, rest: str) -> pb.StreamChatCompletionResponse:
        return _message(f"{self._head}{rest}}}\n\n")


def done() -> pb.StreamChatCompletionResponse:
    return _message("data: [DONE]\n\n")


def _message(text: str) -> pb.StreamChatCompletionResponse:
    body = HttpBody(content_type="text/event-stream", data=text.encode())
    return pb.StreamChatCompletionResponse(events=body)


def _printed(message: Message) -> str:
    return json_format.MessageToJson(
        message,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
        indent=None,
        ensure_ascii=False,
    )
