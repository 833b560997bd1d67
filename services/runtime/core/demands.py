"""What one request asks of the model, decoded and valid, whoever asked and over which API."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.runtime.core.engine import ContextTooLong, Message
from services.runtime.core.sampling import Sampling

# A body of 4 MiB has room for two million empty ones, which would hold up everybody for seconds.
MAX_MESSAGES = 4096
MAX_PARTS = 1024  # of one message


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
    resumed: Sequence[int] = ()  # what a stream that broke had written; `max_output_tokens` has it


# Twice the longest tokens of the vocabularies in use, which are runs of 128 spaces.
_MOST_CHARACTERS = 256


def check_size(prompt: Prompt, max_context_tokens: int) -> None:
    """Spares the tokenizer what can't fit in any case: raises ContextTooLong."""
    if isinstance(prompt, Tokens):
        return
    texts = (
        [prompt.text] if isinstance(prompt, Text) else [each.content for each in prompt.messages]
    )
    characters = sum(len(text) for text in texts)
    most = max_context_tokens * _MOST_CHARACTERS
    if characters > most:
        message = f"must fit the model's {max_context_tokens} tokens, has {characters} characters"
        raise ContextTooLong("prompt", message)
