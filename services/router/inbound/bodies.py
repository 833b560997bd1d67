"""Reads what a request asks for out of its gRPC-framed body, after Envoy's transcoder.

Only what a decision needs is looked at; the runtime validates the rest. gRPC's framing: one byte
that says whether the message is compressed, four of its length (big endian), the message.
"""

import struct
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from google.protobuf.message import DecodeError

from evenflow.inference.v1.inference_service_pb2 import (
    RESPONSE_CACHE_ALLOW,
    RESPONSE_CACHE_BYPASS,
    RESPONSE_CACHE_UNSPECIFIED,
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
    CacheUse,
    Demand,
    InvalidDemand,
    Output,
    Prompt,
    Repeatable,
    WorkloadClass,
    estimated_tokens,
)
from services.router.core.prompts import Chosen, Prompts
from services.router.inbound import beginnings
from services.router.inbound.naming import Choose, chosen

_FRAME = struct.Struct(">BI")


class InvalidBody(ValueError):
    """Not the message that the method takes; the caller's encoder is at fault."""


_NOTHING_TOLD: Choose = partial(Prompts().choose, "", "")


def demand_of(method: str, body: bytes, choose: Choose = _NOTHING_TOLD) -> Demand | None:
    """None for methods that the router itself answers. `choose` is asked which version of a prompt
    it is, where the request names one.

    Raises:
        InvalidBody: the body is no frame with the method's message in it.
        InvalidDemand: a field can't be meant.
        PromptNotFound, PromptsUnknown: as `choose`.
    """
    read = _READERS.get(method)
    return read(body, choose) if read else None


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


def _generate(body: bytes, choose: Choose) -> Demand:
    request = _framed(body, GenerateRequest)
    number = request.workload_class
    resumed = _resumed_tokens(request) if request.HasField("resume") else 0
    named = None
    if request.HasField("prompt"):
        named = chosen(request.prompt, choose, resumed=resumed > 0)
    return Demand(
        model=named.model(request.model) if named else request.model,
        workload_class=_class_of(number) if number else None,
        prompt=_prompt(request, named, to_generate=True),
        output=_output(request.sampling, "max_output_tokens", _MAX_OUTPUT, named),
        resumed_tokens=resumed,
        repeatable=None if resumed else _repeatable(request, len(body), named),
        prompt_version=named.tag if named else "",
    )


def _output(asked: Any, field: str, name: str, named: Chosen | None) -> Output:
    if asked.HasField(field):
        return Output(getattr(asked, field), name)
    return Output(named.version.output_tokens if named else None, name)


def _repeatable(request: GenerateRequest, request_bytes: int, named: Chosen | None) -> Repeatable:
    return Repeatable(
        use=_use_of(request.response_cache),
        deterministic=_is_greedy(request.sampling, named),
        request_bytes=request_bytes,
        content=partial(_content, request, request),
    )


def _resumed_tokens(request: GenerateRequest) -> int:
    resumed = len(request.resume.token_ids)
    if not resumed:
        raise InvalidDemand("resume.token_ids", "must not be empty")
    request.ClearField("resume")  # or a text's size would hold it, too
    return resumed


def _counted(message: type[Any]) -> Callable[[bytes, Choose], Demand]:
    def read(body: bytes, _: Choose) -> Demand:
        request = _framed(body, message)
        return Demand(
            model=request.model,
            workload_class=None,
            prompt=_prompt(request, None, to_generate=False),
            output=None,
        )

    return read


def _completed(message: type[Any]) -> Callable[[bytes, Choose], Demand]:
    def read(body: bytes, choose: Choose) -> Demand:
        request = _framed(body, message)
        chat = request.completion
        field = "max_completion_tokens" if chat.HasField("max_completion_tokens") else "max_tokens"
        name = chat.workload_class
        named = chosen(chat.prompt, choose) if chat.HasField("prompt") else None
        return Demand(
            model=named.model(chat.model) if named else chat.model,
            workload_class=_class_named(name) if name else None,
            prompt=_chat_prompt(chat, named),
            output=_output(chat, field, field, named),
            repeatable=Repeatable(
                use=_use_named(chat.response_cache),
                deterministic=_is_greedy(chat, named),
                request_bytes=len(body),
                content=partial(_content, request, chat),
            ),
            prompt_version=named.tag if named else "",
        )

    return read


def _chat_prompt(chat: Any, named: Chosen | None) -> Prompt:
    # Not message by message: a body has room for two million, and all others would wait.
    size_bytes, start = chat.ByteSize(), beginnings.completion(chat.messages)
    if named is not None:
        size_bytes += named.filled_bytes - chat.prompt.ByteSize()
        start = named.start + start
    return Prompt(estimated_tokens(size_bytes), exact=False, chat=True, start=start)


def _prompt(request: Any, named: Chosen | None, *, to_generate: bool) -> Prompt:
    """`to_generate`: it goes through the model, so that a prefix cache matters."""
    kind = request.WhichOneof("input")
    if kind is None:
        raise InvalidDemand("input", "exactly one kind of prompt is required, got none")
    if named is not None:
        asked = request.prompt
        size_bytes = named.filled_bytes + asked.ByteSize() - asked.variables.ByteSize()
        start = named.start + beginnings.chat(asked.messages)
        return Prompt(estimated_tokens(size_bytes), exact=False, chat=True, start=start)
    if kind == "tokens":
        ids = request.tokens.ids
        return Prompt(len(ids), exact=True, start=beginnings.tokens(ids) if to_generate else b"")
    if kind == "text":
        start = beginnings.text(request.text) if to_generate else b""
        return Prompt(estimated_tokens(request.ByteSize()), exact=False, start=start)
    start = beginnings.chat(request.chat.messages) if to_generate else b""
    return Prompt(estimated_tokens(request.chat.ByteSize()), exact=False, chat=True, start=start)


def _is_greedy(sampling: Any, named: Chosen | None) -> bool:
    """Not a fixed seed: it repeats on one engine only, and the mesh has many."""
    if sampling.HasField("temperature"):
        return bool(sampling.temperature == 0)
    return named is not None and named.version.temperature == 0


def _content(request: Any, asked: Any) -> bytes:
    """Unknown fields are in it, since a newer runtime may know them; map keys are sorted."""
    for field in _NOT_OF_THE_ANSWER:
        asked.ClearField(field)
    content: bytes = request.SerializeToString(deterministic=True)
    return content


def _use_of(number: int) -> CacheUse:
    use = _USES.get(number)
    if use is None:
        raise InvalidDemand("response_cache", f"must be one of the enum's values, got {number}")
    return use


def _use_named(name: str) -> CacheUse:
    if not name:
        return CacheUse.UNSAID
    if name not in ("allow", "bypass"):
        raise InvalidDemand("response_cache", f"must be allow or bypass, got {name[:100]!a}")
    return CacheUse(name)


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
_NOT_OF_THE_ANSWER = ("workload_class", "response_cache")
_USES: Mapping[int, CacheUse] = {
    RESPONSE_CACHE_UNSPECIFIED: CacheUse.UNSAID,
    RESPONSE_CACHE_ALLOW: CacheUse.ALLOW,
    RESPONSE_CACHE_BYPASS: CacheUse.BYPASS,
}
_READERS: Mapping[str, Callable[[bytes, Choose], Demand]] = {
    "/evenflow.inference.v1.InferenceService/Generate": _generate,
    "/evenflow.inference.v1.InferenceService/Tokenize": _counted(TokenizeRequest),
    "/evenflow.inference.v1.InferenceService/CountTokens": _counted(CountTokensRequest),
    "/evenflow.openai.v1.ChatService/CreateChatCompletion": _completed(CreateChatCompletionRequest),
    "/evenflow.openai.v1.ChatService/StreamChatCompletion": _completed(StreamChatCompletionRequest),
}
