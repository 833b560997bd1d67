"""A prompt's file, YAML or JSON, as the registry takes it. Policy says what is wrong with what it
says; here, whether it can be read."""

from typing import Any

import yaml
from google.protobuf import json_format

from evenflow.inference.v1 import inference_service_pb2 as inference_pb
from evenflow.policy.v1 import prompt_service_pb2 as pb

_ROLE, _TYPE = "ROLE_", "VARIABLE_TYPE_"
_FIELDS = ("messages", "variables", "model", "defaults")


class InvalidFile(ValueError):
    """The file is no prompt; the message says why."""


def content_of(text: bytes) -> tuple[str, pb.PromptContent]:
    """The prompt's name, and what its version says. Raises InvalidFile."""
    try:
        said = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidFile(f"not YAML: {error}") from error
    if not isinstance(said, dict) or not isinstance(said.get("name"), str):
        raise InvalidFile("must be a mapping with a name")
    unknown = [str(each) for each in said if each not in ("name", *_FIELDS)]
    if unknown:
        raise InvalidFile(f"unknown field {unknown[0]!r}; known are name, {', '.join(_FIELDS)}")
    fields = {name: said[name] for name in _FIELDS if said.get(name) is not None}
    try:
        fields["messages"] = [_message(each) for each in fields.get("messages", ())]
        fields["variables"] = [_variable(each) for each in fields.get("variables", ())]
        return said["name"], json_format.ParseDict(fields, pb.PromptContent())
    except (json_format.ParseError, TypeError, ValueError) as error:
        raise InvalidFile(str(error)) from error


def role_name(role: "inference_pb.Role.ValueType") -> str:
    return inference_pb.Role.Name(role).removeprefix(_ROLE).lower()


def type_name(number: "pb.VariableType.ValueType") -> str:
    return pb.VariableType.Name(number).removeprefix(_TYPE).lower()


def _message(said: Any) -> dict[str, Any]:
    return {**_mapping(said), "role": _ROLE + str(_mapping(said).get("role", "")).upper()}


def _variable(said: Any) -> dict[str, Any]:
    fields = _mapping(said)
    fields["type"] = _TYPE + str(fields.get("type", "")).upper()
    if "default" in fields:
        fields["default"] = _written(fields["default"])
    return fields


def _mapping(said: Any) -> dict[str, Any]:
    if not isinstance(said, dict):
        raise InvalidFile("messages and variables must be lists of mappings")
    return dict(said)


def _written(default: Any) -> str:
    """YAML's own numbers and truths, as they stand in a message."""
    if isinstance(default, bool):
        return "true" if default else "false"
    if not isinstance(default, str | int | float):
        raise InvalidFile("a default must be text, a number, true or false")
    return str(default)
