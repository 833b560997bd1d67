"""Refuses JSON schemas that an engine would silently not enforce.

llama.cpp's grammar engine drops a schema that it can't compile and writes freely. Keywords:
https://github.com/guidance-ai/llguidance/blob/main/docs/json_schema.md
"""

import json
import math
import re
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
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_MAX_DEPTH = 32
_MAX_COUNT = 1000  # a grammar writes each out: a thousand million took llama.cpp minutes
_MAX_BOUND = 2.0**53  # of a number that every JSON reader keeps
_MAX_PATTERN = 256  # characters
_REPEATS = re.compile(r"\{(\d*)(?:,(\d*))?\}")


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
            _refuse(f"keyword {keyword[:100]!a} is not supported")
    if not str(schema.get("$ref", "#")).startswith("#"):
        _refuse("references must stay inside the schema")
    _check_type(schema.get("type", "object"))
    _check_values(schema)
    for inner in _inner(schema):
        _check(inner, depth=depth + 1)


def _check_type(kind: object) -> None:
    for name in kind if isinstance(kind, list) else [kind]:
        if not isinstance(name, str) or name not in _TYPES:
            _refuse(f"type must be one of {sorted(_TYPES)}, got {str(name)[:100]!a}")


def _check_values(schema: Mapping[str, Any]) -> None:
    for keyword in _COUNTS:
        count = schema.get(keyword, 0)
        if type(count) is not int or not 0 <= count <= _MAX_COUNT:
            _refuse(f"{keyword} must be a whole number from 0 to {_MAX_COUNT}")
    for keyword in _BOUNDS:
        bound = schema.get(keyword, 0)
        if type(bound) not in (int, float) or not -_MAX_BOUND <= bound <= _MAX_BOUND:
            _refuse(f"{keyword} must be a number from -2^53 to 2^53")
    if "enum" in schema and not (isinstance(schema["enum"], list) and schema["enum"]):
        _refuse("enum must be a list that is not empty")
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(each, str) for each in required):
        _refuse("required must be a list of strings")
    if "pattern" in schema:
        _check_pattern(schema["pattern"])


def _check_pattern(pattern: object) -> None:
    """llama.cpp reads on for ever in a pattern whose brackets do not close."""
    if not isinstance(pattern, str) or len(pattern) > _MAX_PATTERN:
        _refuse(f"pattern must be a string of at most {_MAX_PATTERN} characters")
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise InvalidInput("json_schema", "pattern must be a regular expression") from error
    most = [max(int(number or 1) for number in found) for found in _REPEATS.findall(pattern)]
    if math.prod(most) > _MAX_COUNT:
        _refuse(f"pattern must repeat at most {_MAX_COUNT} times")


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
