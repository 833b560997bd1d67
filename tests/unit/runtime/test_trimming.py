"""A chat that is cut keeps what matters, and no more than fits."""

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from math import log2

from hypothesis import given
from hypothesis import strategies as st

from services.runtime.core.engine import Message
from services.runtime.core.trimming import Trimmed, trimmed


class Tokenizer:
    """A token a character, and some for each message and the whole, as templates add them."""

    def __init__(self, *, each: int = 2, whole: int = 3) -> None:
        self._each, self._whole = each, whole
        self.asked: list[list[Message]] = []

    async def __call__(self, messages: Sequence[Message]) -> Sequence[int]:
        self.asked.append(list(messages))
        return range(self.count(messages))

    def count(self, messages: Sequence[Message]) -> int:
        return self._whole + sum(self._each + len(each.content) for each in messages)


def says(*turns: str) -> list[Message]:
    """`"u:hi"` is a user's turn, and so on."""
    roles = {"s": "system", "u": "user", "a": "assistant"}
    return [Message(roles[turn[0]], turn[2:]) for turn in turns]


def cut(messages: Sequence[Message], most: int) -> tuple[Trimmed, list[Message], Tokenizer]:
    """What came of it, and which messages are left."""
    tokenizer = Tokenizer()
    made = asyncio.run(trimmed(messages, tokenizer, most_tokens=most))
    left = next(
        each for each in reversed(tokenizer.asked) if tokenizer.count(each) == len(made.ids)
    )
    return made, left, tokenizer


def test_what_fits_is_left_as_it_is() -> None:
    talk = says("s:be brief", "u:one", "a:two", "u:three")
    made, left, tokenizer = cut(talk, most=Tokenizer().count(talk))

    assert (left, made.left_out, len(tokenizer.asked)) == (talk, 0, 1)


def test_the_oldest_turns_go_and_the_system_stays() -> None:
    talk = says("s:be brief", "u:one", "a:two", "u:three", "a:four", "u:five")
    rest = says("s:be brief", "u:three", "a:four", "u:five")
    made, left, _ = cut(talk, most=Tokenizer().count(talk) - 1)

    assert (left, made.left_out) == (rest, 2)


def test_what_the_system_says_in_between_stays_in_its_place() -> None:
    talk = says("u:one", "s:be brief", "a:two", "s:be kind", "u:three", "a:four")
    _, left, _ = cut(talk, most=1)

    assert left == says("s:be brief", "s:be kind", "u:three", "a:four")


def test_the_latest_turn_stays_even_if_it_does_not_fit() -> None:
    made, left, _ = cut(says("u:one", "a:two", "u:" + "x" * 100), most=5)
    assert (left, made.left_out) == (says("u:" + "x" * 100), 2)

    alone, _, _ = cut(says("s:be brief", "u:" + "x" * 100), most=5)
    assert alone.left_out == 0


def test_an_answer_without_a_question_is_left_alone() -> None:
    made, left, _ = cut(says("a:one", "a:two"), most=1)

    assert (left, made.left_out) == (says("a:one", "a:two"), 0)


TALKS = st.lists(
    st.builds(Message, st.sampled_from(["system", "user", "assistant"]), st.text("x", max_size=30)),
    min_size=1,
    max_size=40,
)


@given(TALKS, st.integers(0, 600))
def test_a_cut_keeps_to_its_promises(talk: list[Message], most: int) -> None:
    tokenizer = Tokenizer()
    made = asyncio.run(trimmed(talk, tokenizer, most_tokens=most))
    users = [at for at, each in enumerate(talk) if each.role == "user"]
    starts = [0, *(at for at in users if at > 0)]
    options = [
        [each for at, each in enumerate(talk) if at >= start or each.role == "system"]
        for start in starts
    ]
    fitting = [each for each in options if tokenizer.count(each) <= most]
    best = fitting[0] if fitting else options[-1]  # the most that fits, else the latest turn

    assert len(made.ids) == tokenizer.count(best)
    assert made.left_out == len(talk) - len(best)
    assert len(tokenizer.asked) <= 3 + log2(len(starts))
    assert all(len(more) >= len(fewer) for more, fewer in pairwise(options))
