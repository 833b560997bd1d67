"""What a label says, and what it said before: each move adds a line, and a roll-back is a move.

Rolling back twice goes back twice: each line remembers which one was in force before it, and a
roll-back takes over that memory from the line that it goes back to.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from services.policy.core.prompts import InvalidPrompt

_ALL = 100
_LABEL = re.compile(r"[a-z][a-z0-9_-]{0,62}")


class NothingBefore(LookupError):
    """The label has said nothing else before; point it somewhere."""


@dataclass(frozen=True, slots=True)
class Share:
    version: int
    percent: int


@dataclass(frozen=True, slots=True)
class Move:
    number: int  # from 1
    shares: Sequence[Share]
    before: int  # number of the move that a roll-back goes back to; 0: there is none
    rolled_back: bool = False


def checked_label(label: str) -> str:
    """Raises InvalidPrompt."""
    if not _LABEL.fullmatch(label):
        expected = "1 to 63 lower-case letters, digits, '_' and '-', a letter first"
        raise InvalidPrompt("label", f"must be {expected}, got {label[:100]!a}")
    return label


def checked_shares(shares: Sequence[Share]) -> Sequence[Share]:
    """Raises InvalidPrompt."""
    if not 1 <= len(shares) <= _ALL:
        raise InvalidPrompt("shares", f"must be 1 to {_ALL}, got {len(shares)}")
    for at, each in enumerate(shares):
        if each.version < 1:
            raise InvalidPrompt(f"shares[{at}].version", f"must be at least 1, got {each.version}")
        if not 1 <= each.percent <= _ALL:
            got = f"must be from 1 to {_ALL}, got {each.percent}"
            raise InvalidPrompt(f"shares[{at}].percent", got)
    if len({each.version for each in shares}) < len(shares):
        raise InvalidPrompt("shares", "must name each version once")
    total = sum(each.percent for each in shares)
    if total != _ALL:
        raise InvalidPrompt("shares", f"must add up to {_ALL}, got {total}")
    return tuple(shares)


def moved(last: Move | None, shares: Sequence[Share]) -> Move | None:
    """The move that makes a label say so. None: it does."""
    if last is None:
        return Move(1, shares, before=0)
    if tuple(last.shares) == tuple(shares):
        return None
    return Move(last.number + 1, shares, before=last.number)


def rolled_back(moves: Sequence[Move]) -> Move:
    """The move that undoes the last one. `moves`: all of the label's, in order.

    Raises NothingBefore.
    """
    last = moves[-1]
    if not last.before:
        raise NothingBefore("the label has said nothing else before")
    target = moves[last.before - 1]
    return Move(last.number + 1, target.shares, before=target.before, rolled_back=True)
