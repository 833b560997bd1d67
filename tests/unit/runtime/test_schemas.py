"""JSON schemas that llama.cpp would silently not enforce are refused."""

import json

import pytest

from services.runtime.core.engine import InvalidInput
from services.runtime.core.schemas import checked


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"type": ["string", "null"]}}, "required": ["a"]},
        {"anyOf": [{"type": "integer"}, {"const": 5}], "title": "n"},
        {"$defs": {"a": {"type": "string"}}, "$ref": "#/$defs/a"},
        {"type": "array", "items": {"enum": ["x"]}, "additionalProperties": False},
    ],
    ids=["object", "any of", "reference", "array"],
)
def test_what_can_be_enforced_passes(schema: dict[str, object]) -> None:
    assert checked(json.dumps(schema)) == schema


def test_an_empty_schema_asks_for_an_object() -> None:
    assert checked("{}") == {"type": "object"}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "what"},
        {"properties": {"a": {"items": {"type": "what"}}}},
        {"not": {"type": "string"}},
        {"$ref": "https://example.com/schema"},
        {"properties": []},
        {"anyOf": {}},
        {"items": 5},
        {"type": [[]]},
        {"enum": []},
        {"required": 3},
        {"minItems": 10**9},
        {"maxLength": -1},
        {"minItems": "x"},
        {"maximum": 10**400},
        {"pattern": "^((((("},
        {"pattern": "^(a{1,1000}){1,1000}$"},
        {"pattern": "x" * 300},
    ],
    ids=[
        *("type", "deep type", "keyword", "outside", "properties", "any of", "no schema"),
        *("list as type", "no values", "required", "many items", "negative", "text as count"),
        *("huge number", "open pattern", "long repeats", "long pattern"),
    ],
)
def test_what_cannot_be_enforced_is_refused(schema: dict[str, object]) -> None:
    with pytest.raises(InvalidInput) as refused:
        checked(json.dumps(schema))

    assert refused.value.field == "json_schema"


def test_endless_depth_is_refused() -> None:
    schema: dict[str, object] = {"type": "string"}
    for _ in range(50):
        schema = {"type": "array", "items": schema}

    with pytest.raises(InvalidInput):
        checked(json.dumps(schema))
