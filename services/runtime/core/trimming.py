"""Cuts a chat to fewer tokens: what its system says stays, and as many of the latest turns as fit.

How many tokens some messages take, only the model's tokenizer knows, and a chat template may add
any number. So it is asked, but only log2 of the turns times: more turns are taken to have more
tokens, as they have in every template.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from services.runtime.core.engine import Message

Encode = Callable[[Sequence[Message]], Awaitable[Sequence[int]]]

_SYSTEM, _USER = "system", "user"


@dataclass(frozen=True, slots=True)
class Trimmed:
    ids: Sequence[int]
    left_out: int  # messages


async def trimmed(messages: Sequence[Message], encode: Encode, *, most_tokens: int) -> Trimmed:
    """The latest turn stays in any case, even above the limit: a cut never refuses anybody.

    What is left begins, after what the system says, with a user's turn: templates ask for that.
    """
    ids = await encode(messages)
    if len(ids) <= most_tokens:
        return Trimmed(ids, 0)
    starts = _starts(messages)
    too_long, fits = 0, len(starts) - 1  # of `starts`; the last is taken to fit
    found: dict[int, Sequence[int]] = {0: ids}
    while fits - too_long > 1:
        middle = (too_long + fits) // 2
        found[middle] = await encode(_from(messages, starts[middle]))
        if len(found[middle]) <= most_tokens:
            fits = middle
        else:
            too_long = middle
    left = _from(messages, starts[fits])
    if len(left) == len(messages):
        return Trimmed(ids, 0)
    kept = found[fits] if fits in found else await encode(left)
    return Trimmed(kept, len(messages) - len(left))


def _starts(messages: Sequence[Message]) -> Sequence[int]:
    """Where what is left may begin: at the first message, and at each later turn of a user's."""
    turns = [at for at, each in enumerate(messages) if each.role == _USER and at > 0]
    return [0, *turns]


def _from(messages: Sequence[Message], start: int) -> Sequence[Message]:
    return [each for at, each in enumerate(messages) if at >= start or each.role == _SYSTEM]
