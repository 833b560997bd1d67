"""Reads what a request asks for out of its gRPC-framed body, after Envoy's transcoder.

Only what a decision needs is looked at; the runtime validates the rest. gRPC's framing: one byte
that says whether the message is compressed, four of its length (big endian), the message.
"""

import struct
from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.message import DecodeError

from evenflow.inference.v1.inference_service_pb2 import (
    CountTokensRequest,
    GenerateRequest,
    TokenizeRequest,
)
from evenflow.openai.v1.chat_service_pb2 import (
    CreateChatCompletionRequest,
    StreamChatCompletionRequest,
)
from services.router.classes import WORKLOAD_CLASSES
from services.router.core.demands import (
    Demand,
    InvalidDemand,
    Output,
    Prompt,
    WorkloadClass,
    estimated_tokens,
)

_FRAME = struct.Struct(">BI")


class InvalidBody(ValueError):
    """Not the message that the method takes; the caller's encoder is at fault."""


def demand_of(method: str, body: bytes) -> Demand | None:
    """None for methods that the router itself answers.

    Raises:
        InvalidBody: the body is no frame with the method's message in it.
        InvalidDemand: a field can't be meant.
    """
    read = _READERS.get(method)
    return read(body) if read else None


def _framed(body: bytes, message: type[Any]) -> Any:
    if len(body) < _FRAME.size:
        raise InvalidBody(f"the body must hold a framed message, got {len(body)} bytes")
    compressed, length = _FRAME.unpack_from(body)
    if compressed:
        raise InvalidBody("compressed messages are not supported: send without grpc-encoding")
    if length != len(body) - _FRAME.size:
        raise InvalidBody(
            f"the frame must hold one message of {length} bytes, got {len(body) - _FRAME.size}"
        )
    try:
        return message.FromString(body[_FRAME.size :])
    except DecodeError as error:
        raise InvalidBody(f"the body must hold a {message.DESCRIPTOR.full_name}") from error


def _generate(body: bytes) -> Demand:
    request = _framed(body, GenerateRequest)
    said = request.sampling.HasField("max_output_tokens")
    number = request.workload_class
    resumed = _resumed_tokens(request) if request.HasField("resume") else 0
    return Demand(
        model=request.model,
        workload_class=_class_of(number) if number else None,
        prompt=_prompt(request),
        output=Output(request.sampling.max_output_tokens if said else None, _MAX_OUTPUT),
        resumed_tokens=resumed,
    )


def _resumed_tokens(request: GenerateRequest) -> int:
    resumed = len(request.resume.token_ids)
    if not resumed:
        raise InvalidDemand("resume.token_ids", "must not be empty")
    request.ClearField("resume")  # or a text's size would hold it, too
    return resumed


def _counted(message: type[Any]) -> Callable[[bytes], Demand]:
    def read(body: bytes) -> Demand:
        request = _framed(body, message)
        return Demand(
            model=request.model, workload_class=None, prompt=_prompt(request), output=None
        )

    return read


def _completed(message: type[Any]) -> Callable[[bytes], Demand]:
    def read(body: bytes) -> Demand:
        chat = _framed(body, message).completion
        field = "max_completion_tokens" if chat.HasField("max_completion_tokens") else "max_tokens"
        said = chat.HasField(field)
        name = chat.workload_class
        return Demand(
            model=chat.model,
            workload_class=_class_named(name) if name else None,
            # Not message by message: a body has room for two million, and all others would wait.
            prompt=Prompt(estimated_tokens(chat.ByteSize()), exact=False),
            output=Output(getattr(chat, field) if said else None, field),
        )

    return read


def _prompt(request: Any) -> Prompt:
    kind = request.WhichOneof("input")
    if kind is None:
        raise InvalidDemand("input", "exactly one kind of prompt is required, got none")
    if kind == "tokens":
        return Prompt(len(request.tokens.ids), exact=True)
    if kind == "text":
        return Prompt(estimated_tokens(request.ByteSize()), exact=False)
    return Prompt(estimated_tokens(request.chat.ByteSize()), exact=False)


def _class_of(number: int) -> WorkloadClass:
    workload_class = WORKLOAD_CLASSES.get(number)
    if workload_class is None:
        raise InvalidDemand("workload_class", f"must be one of the enum's values, got {number}")
    return workload_class


def _class_named(name: str) -> WorkloadClass:
    try:
        return WorkloadClass(name)
    except ValueError:
        allowed = ", ".join(each.value for each in WorkloadClass)
        raise InvalidDemand(
            "workload_class", f"must be one of {allowed}, got {name[:100]!a}"
        ) from None


_MAX_OUTPUT = "sampling.max_output_tokens"
_READERS: Mapping[str, Callable[[bytes], Demand]] = {
    "/evenflow.inference.v1.InferenceService/Generate": _generate,
    "/evenflow.inference.v1.InferenceService/Tokenize": _counted(TokenizeRequest),
    "/evenflow.inference.v1.InferenceService/CountTokens": _counted(CountTokensRequest),
    "/evenflow.openai.v1.ChatService/CreateChatCompletion": _completed(CreateChatCompletionRequest),
    "/evenflow.openai.v1.ChatService/StreamChatCompletion": _completed(StreamChatCompletionRequest),
}
