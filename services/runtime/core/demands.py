"""What one request asks of the model, decoded and valid, whoever asked and over which API."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.runtime.core.engine import Message
from services.runtime.core.sampling import Sampling


@dataclass(frozen=True, slots=True)
class Chat:
    messages: Sequence[Message]  # at least one


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Tokens:
    ids: Sequence[int]  # at least one


Prompt = Chat | Text | Tokens


@dataclass(frozen=True, slots=True)
class Demand:
    model: str
    prompt: Prompt
    sampling: Sampling
    max_output_tokens: int | None  # None: as much as fits, within reason
