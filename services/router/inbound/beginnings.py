"""The beginning of a prompt as bytes, by which prompts with the same one are known.

A conversation has the same bytes over every API, and its next turn begins with those of the turns
before. Bounded work: a body has room for two million messages, and all other requests would wait.
"""

from array import array
from collections.abc import Iterable, Iterator
from typing import Any

from evenflow.inference.v1 import inference_service_pb2 as pb
from services.router.core.prefixes import START_BYTES

_MOST_PIECES = 256  # messages and parts of messages
_TEXT, _TOKENS, _SYSTEM, _USER, _ASSISTANT, _OTHER = b"t", b"i", b"\0s", b"\0u", b"\0a", b"\0?"
_ROLES = {pb.ROLE_SYSTEM: _SYSTEM, pb.ROLE_USER: _USER, pb.ROLE_ASSISTANT: _ASSISTANT}
_NAMES = {"system": _SYSTEM, "developer": _SYSTEM, "user": _USER, "assistant": _ASSISTANT}
_TOKEN_BYTES = array("i").itemsize


def text(prompt: str) -> bytes:
    return _TEXT + prompt[:START_BYTES].encode()[:START_BYTES]


def tokens(ids: Any) -> bytes:
    """Four bytes for each token, which is what a token of text has."""
    return _TOKENS + array("i", ids[: START_BYTES // _TOKEN_BYTES]).tobytes()


def chat(messages: Any) -> bytes:
    """evenflow.inference.v1.ChatMessage."""
    return _joined(
        piece for each in messages for piece in (_ROLES.get(each.role, _OTHER), each.content)
    )


def completion(messages: Any) -> bytes:
    """evenflow.openai.v1.Message."""
    return _joined(piece for each in messages for piece in _pieces(each))


def _pieces(message: Any) -> Iterator[bytes | str]:
    yield _NAMES.get(message.role, _OTHER)
    content = message.content
    if content.HasField("string_value"):
        yield content.string_value
    elif content.HasField("list_value"):
        for part in content.list_value.values[:_MOST_PIECES]:
            if "text" in part.struct_value.fields:
                yield part.struct_value.fields["text"].string_value


def _joined(pieces: Iterable[bytes | str]) -> bytes:
    joined, size = [], 0
    for number, piece in enumerate(pieces):
        encoded = piece if isinstance(piece, bytes) else piece[:START_BYTES].encode()
        joined.append(encoded)
        size += len(encoded)
        if size >= START_BYTES or number >= 2 * _MOST_PIECES:
            break
    return b"".join(joined)[:START_BYTES]
