"""Strategies for bytes that claim to be a message: valid, mended wrongly, and plain noise."""

import json
import struct
from typing import Any, cast

from google.protobuf.struct_pb2 import Value
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from evenflow.inference.v1 import inference_service_pb2 as pb
from evenflow.openai.v1 import chat_service_pb2 as openai_pb

MODEL = "small"
NAMES = st.sampled_from([MODEL, "", "other", "\0", "é", "m" * 300])
TEXTS = st.text(max_size=20) | st.sampled_from(["", "\0", "\ufffe", "a" * 5000])
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, 1, -1, 2**31 - 1, 2**31])
SMALL_NUMBERS = st.integers(-(2**31), 2**31 - 1)
FLOATS = st.floats() | st.sampled_from([0.0, 1.0, 2.0, -0.0, 5e-324, 1e308])
SCHEMAS = st.recursive(
    st.none() | st.booleans() | SMALL_NUMBERS | FLOATS | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("type", "properties", "items", "enum", "const", "required", "pattern"),
                    *("minItems", "maxLength", "minimum", "$ref", "anyOf", "$defs", "what"),
                ]
            ),
            inner | st.sampled_from(["object", "array", "string", "^((", "#", "a{9}{999}"]),
            max_size=4,
        )
    ),
    max_leaves=12,
)


@st.composite
def varints(draw: DrawFn) -> bytes:
    number = draw(st.integers(0, 2**70))
    groups = []
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])


@st.composite
def fields(draw: DrawFn) -> bytes:
    """One field of any number and wire type, whose content may not fit it."""
    content = draw(st.binary(max_size=12) | varints())
    tag = bytes([draw(st.integers(0, 255))])
    if tag[0] & 7 == 2 and draw(st.booleans()):
        return tag + bytes([len(content)]) + content
    return tag + content


def nested(depth: int) -> bytes:
    """A message in a message, `depth` times; or as many groups that begin and do not end."""
    content = b""
    for _ in range(depth):
        length = len(content)
        size = b""
        while length > 0x7F:
            size += bytes([length & 0x7F | 0x80])
            length >>= 7
        content = b"\x0a" + size + bytes([length]) + content
    return content


@st.composite
def mended(draw: DrawFn, messages: SearchStrategy[bytes]) -> bytes:
    """A valid message, most often with a piece of it cut out, replaced or repeated."""
    whole = draw(messages)
    kind = draw(st.sampled_from(["whole", "cut", "replace", "repeat", "add", "deep", "noise"]))
    at = draw(st.integers(0, max(0, len(whole) - 1)))
    until = draw(st.integers(at, len(whole)))
    pieces = {
        "whole": whole,
        "cut": whole[:at] + whole[until:],
        "replace": whole[:at] + draw(st.binary(max_size=8)) + whole[until:],
        "repeat": whole[:until] + whole[at:until] * 2 + whole[until:],
        "add": whole[:at] + draw(fields()) + whole[at:],
        "deep": whole + draw(st.sampled_from([nested(200), b"\x3b" * 200])),
        "noise": draw(st.binary(max_size=60)),
    }
    return pieces[kind]


@st.composite
def generate_requests(draw: DrawFn) -> pb.GenerateRequest:
    request = pb.GenerateRequest(
        model=draw(NAMES), workload_class=cast(Any, draw(st.integers(-1, 5)))
    )
    match draw(st.sampled_from(["chat", "text", "tokens", "none"])):
        case "chat":
            for _ in range(draw(st.integers(0, 3))):
                request.chat.messages.add(
                    role=cast(Any, draw(st.integers(-1, 5))), content=draw(TEXTS)
                )
            request.chat.SetInParent()
        case "text":
            request.text = draw(TEXTS)
        case "tokens":
            request.tokens.ids.extend(draw(st.lists(SMALL_NUMBERS, max_size=5)))
            request.tokens.SetInParent()
    _sample(draw, request.sampling)
    return request


def _sample(draw: DrawFn, sampling: pb.Sampling) -> None:
    given: dict[str, SearchStrategy[Any]] = {
        "max_output_tokens": NUMBERS,
        "temperature": FLOATS,
        "top_p": FLOATS,
        "top_k": SMALL_NUMBERS,
        "seed": NUMBERS,
        "logprobs": SMALL_NUMBERS,
        "json_schema": SCHEMAS.map(repr) | st.text(max_size=10) | SCHEMAS.map(json.dumps),
    }
    for name, values in given.items():
        if draw(st.booleans()):
            setattr(sampling, name, draw(values))
    sampling.stop.extend(draw(st.lists(TEXTS, max_size=10)))


VALUES = st.recursive(
    st.just(Value())
    | st.builds(Value, null_value=st.just(0))
    | st.builds(Value, number_value=FLOATS)
    | st.builds(Value, string_value=TEXTS | st.sampled_from(["text"]))
    | st.builds(Value, bool_value=st.booleans()),
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda values: _value(list(values)))
        | st.dictionaries(
            st.sampled_from(["type", "text", "properties", "items", "enum", "minItems"]), inner
        ).map(lambda values: _value(dict(values)))
    ),
    max_leaves=10,
)


def _value(content: list[Value] | dict[str, Value]) -> Value:
    value = Value()
    if isinstance(content, list):
        value.list_value.SetInParent()
        value.list_value.values.extend(content)
        return value
    value.struct_value.SetInParent()
    for name, each in content.items():
        value.struct_value.fields[name].CopyFrom(each)
    return value


@st.composite
def chat_completions(draw: DrawFn) -> openai_pb.ChatCompletion:
    chat = openai_pb.ChatCompletion(model=draw(NAMES))
    for _ in range(draw(st.integers(0, 3))):
        role = draw(st.sampled_from(["user", "system", "assistant", "developer", "", "tool"]))
        chat.messages.add(role=role, content=draw(VALUES))
    given: dict[str, SearchStrategy[Any]] = {
        "max_tokens": SMALL_NUMBERS,
        "max_completion_tokens": SMALL_NUMBERS,
        "temperature": FLOATS,
        "top_p": FLOATS,
        "top_k": SMALL_NUMBERS,
        "seed": NUMBERS,
        "logprobs": st.booleans(),
        "top_logprobs": SMALL_NUMBERS,
        "n": SMALL_NUMBERS,
        "workload_class": st.sampled_from(["batch", "interactive", "", "x" * 300, "é"]),
        "presence_penalty": FLOATS,
    }
    for name, values in given.items():
        if draw(st.integers(0, 3)) == 0:
            setattr(chat, name, draw(values))
    if draw(st.booleans()):
        chat.stop.CopyFrom(draw(VALUES))
    if draw(st.booleans()):
        kind = draw(st.sampled_from(["text", "json_object", "json_schema", "", "x"]))
        chat.response_format.type = kind
        schema = draw(VALUES)
        if schema.HasField("struct_value"):
            chat.response_format.json_schema.schema.CopyFrom(schema.struct_value)
    return chat


def serialized(messages: SearchStrategy[Any]) -> SearchStrategy[bytes]:
    return messages.map(lambda message: message.SerializeToString())


@st.composite
def framed(draw: DrawFn, messages: SearchStrategy[bytes]) -> bytes:
    """gRPC's framing, which may say something else than the truth."""
    body = draw(messages)
    flag = draw(st.sampled_from([0, 0, 0, 0, 1, 128, 255]))
    length = draw(st.sampled_from([len(body)] * 6 + [0, len(body) + 1, 2**32 - 1]))
    return struct.pack(">BI", flag, length) + body
