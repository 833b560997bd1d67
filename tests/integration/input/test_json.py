"""JSON that can't be meant: refused in OpenAI's words, by the field where there is one."""

import pytest

from tests.integration.input.raw import posted
from tests.integration.whole.mesh import Mesh

REST = b'"model":"simulated","max_tokens":2,"messages":[{"role":"user","content":"hi"}]}'


def with_(text: str) -> bytes:
    return b"{" + text.encode() + b"," + REST


def saying(content: bytes) -> bytes:
    return b"{" + REST.replace(b'"hi"', b'"' + content + b'"')


def schema(text: str) -> bytes:
    inner = '{"type":"json_schema","json_schema":{"schema":' + text + "}}"
    return with_('"response_format":' + inner)


SCHEMA = "response_format.json_schema.schema"
BODY, FIELD = "BODY_INVALID", "FIELD_INVALID"
WRONG = {
    "10 MiB": (saying(b"a" * (10 << 20)), 413, "BODY_TOO_LARGE", None),
    "no UTF-8": (saying(b"\xff\xfe"), 400, BODY, None),
    "overlong UTF-8": (saying(b"\xc0\x80"), 400, BODY, None),
    "half a surrogate pair": (saying(b"\\ud800"), 400, BODY, None),
    "the other half": (saying(b"\\udc00"), 400, BODY, None),
    "byte order mark": (b"\xef\xbb\xbf{" + REST, 400, BODY, None),
    "UTF-16": (("{" + REST.decode()).encode("utf-16"), 400, BODY, None),
    "no bytes": (b"", 400, FIELD, "model"),
    "a list": (b"[]", 400, BODY, None),
    "cut off": (b"{" + REST[:-9], 400, BODY, None),
    "two objects": (b"{" + REST + b"{" + REST, 400, BODY, None),
    "deep list": (with_('"x":' + "[" * 9999 + "]" * 9999), 400, BODY, None),
    "deep object": (with_('"x":' + '{"a":' * 9999 + "1" + "}" * 9999), 400, BODY, None),
    "brackets without end": (b"[" * 1_000_000, 400, BODY, None),
    "1e400": (with_('"temperature":1e400'), 400, BODY, None),
    "NaN": (with_('"temperature":NaN'), 400, BODY, None),
    "NaN in quotes": (with_('"temperature":"NaN"'), 400, FIELD, "temperature"),
    "Infinity in quotes": (with_('"top_p":"Infinity"'), 400, FIELD, "top_p"),
    "1e308": (with_('"temperature":1e308'), 400, FIELD, "temperature"),
    "negative": (with_('"temperature":-1'), 400, FIELD, "temperature"),
    "text": (with_('"temperature":"x"'), 400, BODY, "temperature"),
    "negative seed": (with_('"seed":-1'), 400, FIELD, "seed"),
    "negative top_k": (with_('"top_k":-1'), 400, FIELD, "top_k"),
    "half a token": (with_('"max_completion_tokens":1.5'), 400, BODY, "max_completion_tokens"),
    "2^31": (with_('"max_completion_tokens":2147483648'), 400, BODY, "max_completion_tokens"),
    "no output": (with_('"max_completion_tokens":0'), 400, FIELD, "max_completion_tokens"),
    "nine stops": (with_('"stop":["a","b","c","d","e","f","g","h","i"]'), 400, FIELD, "stop"),
    "stop in a list in a list": (with_('"stop":[["a"]]'), 400, FIELD, "stop"),
    "a number to say": (
        b"{" + REST.replace(b'"hi"', b"3"),
        *(400, FIELD, "messages[0].content"),
    ),
    "stream twice": (with_('"stream":true,"stream":false'), 400, BODY, None),
    "type of a schema": (schema('{"type":[[]]}'), 400, FIELD, SCHEMA),
    "properties of a schema": (schema('{"properties":3}'), 400, FIELD, SCHEMA),
    "empty enum": (schema('{"enum":[]}'), 400, FIELD, SCHEMA),
    "a thousand million items": (schema('{"minItems":1000000000}'), 400, FIELD, SCHEMA),
    "long keyword": (schema('{"' + "a" * 60_000 + '":1}'), 400, FIELD, SCHEMA),
    "long type": (schema('{"type":"' + "a" * 60_000 + '"}'), 400, FIELD, SCHEMA),
}
FINE = {
    "no characters": saying(b""),
    "control characters": saying(b"\x01\x02"),
    "NUL": saying(b"a\\u0000b"),
    "unknown field": with_('"foo":{"a":[1,null]}'),
    "a field twice": with_('"model":"nobody"'),
    "largest seed": with_('"seed":9223372036854775807'),
    "largest top_k": with_('"top_k":2147483647'),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_meant_is_refused(mesh: Mesh, name: str) -> None:
    body, status, code, param = WRONG[name]

    answer = posted(mesh, body, headers=b"content-type: application/json\r\n")

    assert (answer.status, answer.error["code"], answer.error["param"]) == (status, code, param)
    assert answer.error["message"]


@pytest.mark.parametrize("body", FINE.values(), ids=FINE)
def test_what_is_only_odd_is_answered(mesh: Mesh, body: bytes) -> None:
    assert posted(mesh, body).status == 200


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data; boundary=x", "\xff"])
def test_any_content_type_is_read_as_json(mesh: Mesh, kind: str) -> None:
    header = f"content-type: {kind}\r\n".encode("latin-1")

    assert posted(mesh, b"{" + REST, headers=header).status == 200
