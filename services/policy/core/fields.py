"""Reads fields out of nodes, noting every problem with its line instead of stopping at the first.

What can't be read comes back as None or is left out; the problem is in the notes, so the value is
never used.
"""

import difflib
import re
from collections.abc import Sequence

from services.policy.core.nodes import Listing, Mapping, Node, Problem, Scalar, kind_of

MAX_TOKENS = 1_000_000_000  # far above any model's context; a slip of the keyboard is not

# What YAML 1.1 or 1.2 takes for something else than text when it is not quoted
_NOT_TEXT = re.compile(
    r"|~|null|true|false|yes|no|on|off|[-+]?(\.\d+|\d[\d_]*(\.\d*)?)(e[-+]?\d+)?|0[xo][\da-f]+",
    re.IGNORECASE,
)
_WHOLE_NUMBER = re.compile(r"[-+]?[0-9]{1,18}")
_DECIMAL = re.compile(r"[-+]?[0-9]{1,9}(\.[0-9]{1,9})?")


class Notes:
    """The problems found so far."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []  # what may not be meant, though it can be used

    def add(self, node: Node, field: str, message: str) -> None:
        self.problems.append(Problem(node.line, node.column, field, message))

    def warn(self, node: Node, field: str, message: str) -> None:
        self.warnings.append(Problem(node.line, node.column, field, message))


def entries(
    node: Node, at: str, notes: Notes, *, required: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, Node]:
    """The fields of a mapping by name, once each."""
    if not isinstance(node, Mapping):
        notes.add(node, at, f"must be a mapping, got {kind_of(node)}")
        return {}
    found: dict[str, Node] = {}
    known = (*required, *optional)
    for key, value in node.entries:
        name = key.text if isinstance(key, Scalar) else ""
        if name not in known:
            notes.add(key, _join(at, name), f"unknown field {kind_of(key)}{_hint(name, known)}")
        elif name in found:
            notes.add(key, _join(at, name), f"given twice, first on line {found[name].line}")
        else:
            found[name] = value
    for name in required:
        if name not in found:
            notes.add(node, _join(at, name), "is required")
    return found


def items(node: Node | None, at: str, notes: Notes) -> Sequence[Node]:
    if node is None:
        return ()
    if not isinstance(node, Listing):
        notes.add(node, at, f"must be a list, got {kind_of(node)}")
        return ()
    return node.items


def text(
    node: Node | None, at: str, notes: Notes, *, pattern: re.Pattern[str], expected: str
) -> str | None:
    if node is None:
        return None
    if isinstance(node, Scalar) and pattern.fullmatch(value := node.text):
        if node.quoted or not _NOT_TEXT.fullmatch(value):
            return value
        notes.add(node, at, f"must be text, got {node.text}; put it in quotes")
        return None
    notes.add(node, at, f"must be {expected}, got {kind_of(node)}")
    return None


def tokens(node: Node | None, at: str, notes: Notes) -> int:
    """A number of tokens, 0 when there is none."""
    return whole(node, at, notes, between=(0, MAX_TOKENS))


def whole(node: Node | None, at: str, notes: Notes, *, between: tuple[int, int]) -> int:
    """A whole number; the least that it may be when there is none."""
    least, most = between
    if node is None:
        return least
    if not isinstance(node, Scalar) or node.quoted or not _WHOLE_NUMBER.fullmatch(node.text):
        notes.add(node, at, f"must be a whole number, got {kind_of(node)}")
        return least
    number = int(node.text)
    if not least <= number <= most:
        notes.add(node, at, f"must be from {least} to {most}, got {number}")
        return least
    return number


def seconds(node: Node | None, at: str, notes: Notes, *, at_most: float) -> float:
    """A length of time, 0 when there is none."""
    if node is None:
        return 0.0
    if not isinstance(node, Scalar) or node.quoted or not _DECIMAL.fullmatch(node.text):
        notes.add(node, at, f"must be a number of seconds, got {kind_of(node)}")
        return 0.0
    if not 0 <= float(node.text) <= at_most:
        notes.add(node, at, f"must be from 0 to {at_most:g} seconds, got {node.text}")
        return 0.0
    return float(node.text)


def share(node: Node | None, at: str, notes: Notes) -> float:
    """A part of a whole, 0 when there is none."""
    if node is None:
        return 0.0
    if not isinstance(node, Scalar) or node.quoted or not _DECIMAL.fullmatch(node.text):
        notes.add(node, at, f"must be a number from 0 to 1, got {kind_of(node)}")
        return 0.0
    if not 0 <= float(node.text) <= 1:
        notes.add(node, at, f"must be from 0 to 1, got {node.text}")
        return 0.0
    return float(node.text)


def flag(node: Node | None, at: str, notes: Notes) -> bool:
    """False when there is none."""
    if node is None:
        return False
    if not isinstance(node, Scalar) or node.quoted or node.text not in ("true", "false"):
        notes.add(node, at, f"must be true or false, got {kind_of(node)}")
        return False
    return node.text == "true"


def _join(at: str, name: str) -> str:
    return f"{at}.{name}" if at and name else at or name


def _hint(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"
