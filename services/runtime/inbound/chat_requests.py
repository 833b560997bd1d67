"""Reads OpenAI's chat completion request. What isn't supported is refused by its name."""

import json
from collections.abc import Sequence
from typing import Any

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct, Value

from evenflow.openai.v1 import chat_service_pb2 as pb
from services.runtime.core.demands import MAX_MESSAGES, MAX_PARTS, Chat, Demand
from services.runtime.core.engine import InvalidInput, Message
from services.runtime.core.prompts import Opening
from services.runtime.core.sampling import MAX_STOPS, InvalidSampling, Sampling

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_ANY_OBJECT = "{}"

FIELDS = {
    "prompt": "messages",
    "json_schema": "response_format.json_schema.schema",
    "logprobs": "top_logprobs",
}


def field_names(chat: pb.ChatCompletion) -> dict[str, str]:
    older = chat.HasField("max_tokens") and not chat.HasField("max_completion_tokens")
    return {**FIELDS, "max_output_tokens": "max_tokens" if older else "max_completion_tokens"}


def demand(chat: pb.ChatCompletion, opening: Opening) -> Demand:
    """Raises InvalidInput, InvalidSampling."""
    _refuse_unsupported(chat)
    most = _max_output_tokens(chat)
    return Demand(
        opening.model or chat.model,
        Chat((*opening.messages, *_messages(chat, at_least=0 if opening.messages else 1))),
        _sampling(chat, opening),
        opening.max_output_tokens if most is None else most,
    )


def _refuse_unsupported(chat: pb.ChatCompletion) -> None:
    unsupported = {
        "tools": bool(chat.tools),
        "presence_penalty": chat.presence_penalty != 0,
        "frequency_penalty": chat.frequency_penalty != 0,
        "logit_bias": bool(chat.logit_bias.fields),
        "n": chat.HasField("n") and chat.n != 1,
    }
    for field, asked in unsupported.items():
        if asked:
            raise InvalidInput(field, "is not supported")


def _max_output_tokens(chat: pb.ChatCompletion) -> int | None:
    for field in ("max_completion_tokens", "max_tokens"):
        if chat.HasField(field):
            most: int = getattr(chat, field)
            if most < 1:
                raise InvalidSampling("max_output_tokens", f"must be at least 1, got {most}")
            return most
    return None


def _sampling(chat: pb.ChatCompletion, opening: Opening) -> Sampling:
    given: dict[str, Any] = {
        name: getattr(chat, name)
        for name in ("temperature", "top_p", "top_k", "seed")
        if chat.HasField(name)
    }
    if stop := _stop(chat.stop):
        given["stop"] = stop
    return Sampling(
        logprobs=_logprobs(chat),
        json_schema=_json_schema(chat),
        ignore_eos=chat.ignore_eos,
        **{**opening.sampling, **given},
    )


def _logprobs(chat: pb.ChatCompletion) -> int | None:
    if chat.logprobs:
        return chat.top_logprobs
    if chat.top_logprobs:
        raise InvalidInput("top_logprobs", "needs logprobs to be true")
    return None


def _stop(stop: Value) -> tuple[str, ...]:
    match stop.WhichOneof("kind"):
        case None | "null_value":
            return ()
        case "string_value":
            return (stop.string_value,)
        case "list_value" if len(stop.list_value.values) > MAX_STOPS:
            raise InvalidInput("stop", f"must have at most {MAX_STOPS} strings")
        case "list_value":
            return tuple(_string(value, "stop") for value in stop.list_value.values)
    raise InvalidInput("stop", "must be a string or a list of strings")


def _json_schema(chat: pb.ChatCompletion) -> str | None:
    asked = chat.response_format
    match asked.type:
        case "" | "text":
            return None
        case "json_object":
            return _ANY_OBJECT
        case "json_schema" if asked.json_schema.HasField("schema"):
            return _schema_text(asked.json_schema.schema)
        case "json_schema":
            raise InvalidInput("response_format.json_schema.schema", "is required")
    raise InvalidInput("response_format.type", "must be text, json_object or json_schema")


def _schema_text(schema: Struct) -> str:
    try:
        return json.dumps(_whole(json_format.MessageToDict(schema)))
    except (json_format.Error, ValueError) as error:  # a client of gRPC can send NaN
        raise InvalidInput("json_schema", "must hold finite numbers only") from error


def _whole(value: object) -> object:
    """A Struct holds every number as a float; a schema's lengths and counts are whole."""
    if isinstance(value, dict):
        return {key: _whole(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_whole(each) for each in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _messages(chat: pb.ChatCompletion, *, at_least: int) -> Sequence[Message]:
    number = len(chat.messages)
    if not at_least <= number <= MAX_MESSAGES:
        raise InvalidInput("messages", f"must be {at_least} to {MAX_MESSAGES}, got {number}")
    return tuple(_message(each, f"messages[{at}]") for at, each in enumerate(chat.messages))


def _message(message: pb.Message, where: str) -> Message:
    if message.role not in _ROLES:
        raise InvalidInput(f"{where}.role", f"must be one of {', '.join(_ROLES)}")
    return Message(_ROLES[message.role], _content(message.content, f"{where}.content"))


def _content(content: Value, where: str) -> str:
    if content.WhichOneof("kind") != "list_value":
        return _string(content, where)
    parts = content.list_value.values
    if len(parts) > MAX_PARTS:
        raise InvalidInput(where, f"must have at most {MAX_PARTS} parts, got {len(parts)}")
    return "".join(_part(part, f"{where}[{at}]") for at, part in enumerate(parts))


def _part(part: Value, where: str) -> str:
    fields = part.struct_value.fields
    if "type" not in fields or _string(fields["type"], f"{where}.type") != "text":
        raise InvalidInput(f"{where}.type", "must be text")
    if "text" not in fields:
        raise InvalidInput(f"{where}.text", "is required")
    return _string(fields["text"], f"{where}.text")


def _string(value: Value, where: str) -> str:
    if value.WhichOneof("kind") != "string_value":
        raise InvalidInput(where, "must be a string")
    return value.string_value
