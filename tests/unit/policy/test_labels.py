"""What a label says after any moves and roll-backs: what a stack of what it said would say."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.policy.core.labels import (
    Move,
    NothingBefore,
    Share,
    checked_label,
    checked_shares,
    moved,
    rolled_back,
)
from services.policy.core.prompts import InvalidPrompt

BACK = 0


@given(st.lists(st.integers(0, 3), max_size=30))
def test_a_label_is_a_stack_of_what_it_said(acts: Sequence[int]) -> None:
    moves: list[Move] = []
    stack: list[int] = []
    for act in acts:
        if act == BACK and len(stack) > 1:
            moves.append(rolled_back(moves))
            stack.pop()
        elif act != BACK:
            move = moved(moves[-1] if moves else None, (Share(act, 100),))
            assert (move is None) == (stack[-1:] == [act])
            if move is not None:
                moves.append(move)
                stack.append(act)
        assert [each.shares[0].version for each in moves[-1:]] == stack[-1:]

    assert [each.number for each in moves] == list(range(1, len(moves) + 1))


def test_the_first_can_t_be_undone() -> None:
    first = moved(None, (Share(1, 100),))
    assert first is not None

    with pytest.raises(NothingBefore):
        rolled_back([first])


@pytest.mark.parametrize(
    ("shares", "field"),
    [
        ([], "shares"),
        ([(1, 99)], "shares"),
        ([(1, 50), (1, 50)], "shares"),
        ([(1, 100), (2, 0)], "shares[1].percent"),
        ([(1, 101), (2, -1)], "shares[0].percent"),
        ([(0, 100)], "shares[0].version"),
    ],
)
def test_shares_that_can_t_be_meant(shares: list[tuple[int, int]], field: str) -> None:
    with pytest.raises(InvalidPrompt) as caught:
        checked_shares([Share(*each) for each in shares])

    assert caught.value.field == field


@pytest.mark.parametrize("label", ["", "A", "1st", "a b", "x" * 64])
def test_labels_are_names(label: str) -> None:
    with pytest.raises(InvalidPrompt):
        checked_label(label)
