"""What the simulated engine reads and writes: tokens without a model, text that says so.

A token is a piece of text of up to six characters, so that counts resemble a real tokenizer's.
"""

import codecs
import json
import random
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from services.runtime.core.engine import (
    InvalidInput,
    Job,
    Message,
    TokenLogprob,
    begins_answer,
)
from services.runtime.core.schemas import checked
from services.runtime.core.stopping import StopScanner

VOCABULARY = 32768
_FIRST_TEXT_TOKEN = 16  # below: markers of the chat template
_ROLES = {"system": 1, "user": 2, "assistant": 3}
_END_OF_TURN = 4
_PIECES = re.compile(r"\s?\w{1,6}|\s|[^\w\s]")

_OPENING = ("[simulated]", " No", " model", " wrote", " this", ".")
_WORDS = (
    *(" token", " stream", " mesh", " slot", " queue", " block", " batch", " prefix", " tenant"),
    *(" runs", " waits", " ends", " is", " was", " and", " or", ",", ".", " été", " 🌊"),
)
_MAX_DEPTH = 16


def encode(text: str) -> Sequence[int]:
    return [_id_of(piece.encode("utf-8", "surrogatepass")) for piece in _PIECES.findall(text)]


def encode_chat(messages: Sequence[Message]) -> Sequence[int]:
    ids: list[int] = []
    for message in messages:
        ids += [_ROLES[message.role], *encode(message.content), _END_OF_TURN]
    return ids[:-1] if begins_answer(messages) else [*ids, _ROLES["assistant"]]


class Answer:
    """One job's output, token by token. The same job and random numbers write the same.

    A resumed job gets what is left of it, or, if its tokens are not what would have been written
    here, something that follows them.
    """

    def __init__(self, job: Job, rng: random.Random, *, mean_tokens: int) -> None:
        self._alternatives = job.sampling.logprobs
        self._begin(job, _tokens(job, rng, mean_tokens))
        resumed = job.prompt[len(job.prompt) - job.resumed :]
        if not all(self._writes(token) for token in resumed):
            self._begin(job, _Tokens(_words(rng, job.max_output_tokens, opening=())))
        self._ids.clear()

    def _begin(self, job: Job, tokens: "_Tokens") -> None:
        self._likelihoods = random.Random(0)  # noqa: S311 - a simulation must repeat
        self._scanner = StopScanner(job.sampling.stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._tokens = tokens
        self._ids: list[int] = []  # that no caller has taken

    def _writes(self, token: int) -> bool:
        if self.ended or self.met_stop:
            return False
        self.write()
        return self._ids.pop() == token

    @property
    def met_stop(self) -> bool:
        return self._scanner.met

    @property
    def ended(self) -> bool:
        """Whether the model has nothing more to write."""
        return self._tokens.ended

    def write(self) -> tuple[str, Sequence[TokenLogprob]]:
        """The next token: its text (whole characters) and its log probability, if asked for."""
        token = next(self._tokens)
        self._ids.append(_id_of(token))
        return self._scanner.push(self._decoder.decode(token)), self._logprobs(token)

    def ids(self) -> Sequence[int]:
        """Of the tokens since it had some the last time; none while any text is held back."""
        if self._scanner.holds or self._decoder.getstate()[0]:
            return ()
        taken, self._ids = self._ids, []
        return taken

    def rest(self) -> str:
        return self._scanner.flush()

    def _logprobs(self, token: bytes) -> Sequence[TokenLogprob]:
        if self._alternatives is None:
            return ()
        shown = token.decode("utf-8", "replace")
        first = -self._likelihoods.random() / 10
        others = [(word, first - rank) for rank, word in enumerate(_WORDS, start=1)]
        ranked = [(shown, first), *(pair for pair in others if pair[0] != shown)]
        return (TokenLogprob(shown, first, tuple(ranked[: self._alternatives])),)


class _Tokens:
    """An iterator that knows whether it has ended before it is asked."""

    def __init__(self, tokens: Iterator[bytes]) -> None:
        self._tokens = tokens
        self._next = next(tokens, None)

    @property
    def ended(self) -> bool:
        return self._next is None

    def __next__(self) -> bytes:
        token = self._next
        assert token is not None
        self._next = next(self._tokens, None)
        return token


def _tokens(job: Job, rng: random.Random, mean_tokens: int) -> _Tokens:
    if job.sampling.json_schema is not None:
        return _Tokens(_json_tokens(job.sampling.json_schema))
    if job.sampling.ignore_eos:
        return _Tokens(_words(rng, job.resumed + job.max_output_tokens + 1))
    shortest = max(1, mean_tokens // 2)
    return _Tokens(_words(rng, rng.randint(shortest, mean_tokens + shortest)))


def _words(
    rng: random.Random, length: int, *, opening: Sequence[str] = _OPENING
) -> Iterator[bytes]:
    written = 0
    while True:
        word = (opening[written] if written < len(opening) else rng.choice(_WORDS)).encode()
        # A character beyond the Basic Multilingual Plane takes two tokens, as in real tokenizers.
        for piece in (word[:3], word[3:]) if max(word) >= 0xF0 else (word,):
            if written >= length:
                return
            written += 1
            yield piece


def _id_of(piece: bytes) -> int:
    return _FIRST_TEXT_TOKEN + zlib.crc32(piece) % (VOCABULARY - _FIRST_TEXT_TOKEN)


def _json_tokens(schema: str) -> Iterator[bytes]:
    text = json.dumps(instance(checked(schema)))
    return (text[start : start + 4].encode() for start in range(0, len(text), 4))


def instance(schema: Mapping[str, Any], depth: int = 0) -> object:
    """The smallest value of a schema made of types, properties, items, enum and const.

    Raises:
        InvalidInput: the schema asks for something else.
    """
    if depth > _MAX_DEPTH:
        raise InvalidInput("json_schema", f"must be at most {_MAX_DEPTH} levels deep")
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type", "object")
    if isinstance(kind, list):
        kind = kind[0] if kind else "null"
    if kind == "object":
        properties = schema.get("properties", {})
        return {name: _inner(value, depth) for name, value in properties.items()}
    if kind == "array":
        item = schema.get("items", {"type": "null"})
        return [_inner(item, depth) for _ in range(schema.get("minItems", 0))]
    if kind not in _LEAVES:
        raise InvalidInput("json_schema", f"type must be one of {sorted(_LEAVES)}, got {kind!r}")
    return schema.get("minimum", 0) if kind in ("integer", "number") else _LEAVES[kind]


def _inner(schema: object, depth: int) -> object:
    return instance(schema, depth + 1) if isinstance(schema, dict) else None


_LEAVES: Mapping[str, object] = {
    "string": "simulated",
    "integer": 0,
    "number": 0,
    "boolean": True,
    "null": None,
}
