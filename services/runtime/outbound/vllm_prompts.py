"""Token ids of what callers write, where no caller can spell a special token.

A chat template and its special tokens are the model's; the words between them are the caller's. A
message that contains, say, `<|im_end|>` must not end itself and begin another's turn.
"""

import secrets
from collections.abc import Mapping, Sequence
from typing import Protocol

from services.runtime.core.engine import Message, begins_answer


class Tokenizer(Protocol):
    """The part of transformers' PreTrainedTokenizerBase that we use."""

    @property
    def all_special_tokens(self) -> Sequence[str]: ...

    def encode(
        self, text: str, *, add_special_tokens: bool, split_special_tokens: bool
    ) -> Sequence[int]: ...

    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, str]],
        *,
        add_generation_prompt: bool,
        continue_final_message: bool,
        tokenize: bool,
    ) -> str: ...


def chat_tokens(tokenizer: Tokenizer, messages: Sequence[Message]) -> Sequence[int]:
    contents = [message.content for message in messages]
    special = tokenizer.all_special_tokens
    if not any(token in content for token in special for content in contents):
        return _trusted(tokenizer, _templated(tokenizer, messages, contents))
    return _pieced(tokenizer, messages)


def text_tokens(tokenizer: Tokenizer, text: str) -> Sequence[int]:
    return list(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))


def _pieced(tokenizer: Tokenizer, messages: Sequence[Message]) -> Sequence[int]:
    """The template around placeholders, then each message's own text in the place of its own."""
    places = [f"[{secrets.token_hex(16)}]" for _ in messages]
    rest = _templated(tokenizer, messages, places)
    tokens: list[int] = []
    for place, message in zip(places, messages, strict=True):
        before, found, after = rest.partition(place)
        if found:  # a template may leave a message out
            tokens += [*_trusted(tokenizer, before), *text_tokens(tokenizer, message.content)]
            rest = after
    return [*tokens, *_trusted(tokenizer, rest)]


def _templated(tokenizer: Tokenizer, messages: Sequence[Message], contents: Sequence[str]) -> str:
    conversation = [
        {"role": message.role, "content": content}
        for message, content in zip(messages, contents, strict=True)
    ]
    on = begins_answer(messages)
    return tokenizer.apply_chat_template(
        conversation, add_generation_prompt=not on, continue_final_message=on, tokenize=False
    )


def _trusted(tokenizer: Tokenizer, text: str) -> Sequence[int]:
    return list(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=False))
