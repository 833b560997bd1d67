"""Refuses JSON schemas that an engine would silently not enforce.

llama.cpp's grammar engine drops a schema that it can't compile and writes freely. Keywords:
https://github.com/guidance-ai/llguidance/blob/main/docs/json_schema.md
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from services.runtime.core.engine import InvalidInput

_TYPES = {"object", "array", "string", "integer", "number", "boolean", "null"}
_ONE_SCHEMA = {"items", "additionalProperties", "additionalItems"}
_MANY_SCHEMAS = {"anyOf", "oneOf", "allOf", "prefixItems"}
_NAMED_SCHEMAS = {"properties", "patternProperties", "$defs", "definitions"}
_VALUES = {
    *("type", "enum", "const", "required", "$ref", "pattern", "format"),
    *("minLength", "maxLength", "minItems", "maxItems", "multipleOf"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    *("minProperties", "maxProperties"),
}
_ANNOTATIONS = {
    *("title", "description", "default", "examples", "$schema", "$id", "$comment"),
    *("deprecated", "readOnly", "writeOnly"),
}
_KNOWN = _ONE_SCHEMA | _MANY_SCHEMAS | _NAMED_SCHEMAS | _VALUES | _ANNOTATIONS
_MAX_DEPTH = 32


def checked(text: str) -> Mapping[str, Any]:
    """The schema; an empty one asks for any JSON object.

    Raises:
        InvalidInput: a type or a keyword is not known, or a reference leads out of the schema.
    """
    schema: Mapping[str, Any] = json.loads(text)
    _check(schema, depth=0)
    return schema or {"type": "object"}


def _check(schema: object, *, depth: int) -> None:
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        _refuse(f"a schema must be an object or a boolean, got {type(schema).__name__}")
    if depth > _MAX_DEPTH:
        _refuse(f"must be at most {_MAX_DEPTH} levels deep")
    for keyword in schema:
        if keyword not in _KNOWN:
            _refuse(f"keyword {keyword!r} is not supported")
    if not str(schema.get("$ref", "#")).startswith("#"):
        _refuse("references must stay inside the schema")
    _check_type(schema.get("type", "object"))
    for inner in _inner(schema):
        _check(inner, depth=depth + 1)


def _check_type(kind: object) -> None:
    for name in kind if isinstance(kind, list) else [kind]:
        if name not in _TYPES:
            _refuse(f"type must be one of {sorted(_TYPES)}, got {name!r}")


def _inner(schema: Mapping[str, Any]) -> Iterator[object]:
    for keyword, value in schema.items():
        if keyword in _ONE_SCHEMA:
            yield from value if isinstance(value, list) else [value]
        elif keyword in _MANY_SCHEMAS:
            if not isinstance(value, list):
                _refuse(f"{keyword} must be a list")
            yield from value
        elif keyword in _NAMED_SCHEMAS:
            if not isinstance(value, dict):
                _refuse(f"{keyword} must be an object")
            yield from value.values()


def _refuse(message: str) -> NoReturn:
    raise InvalidInput("json_schema", message)
