"""A YAML document as plain values that know where they stand in the file.

Named tuples, because a file of 10,000 tenants holds 200,000 of them and a frozen dataclass takes
three times as long to make.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

_SHOWN = 100  # problems in one message; who has more will run it again anyway


class Scalar(NamedTuple):
    line: int  # from 1
    column: int  # from 1
    text: str
    quoted: bool  # unquoted text may be a number, a boolean or null


class Listing(NamedTuple):
    line: int
    column: int
    items: "Sequence[Node]"


class Mapping(NamedTuple):
    line: int
    column: int
    entries: "Sequence[tuple[Node, Node]]"  # in order; keys may repeat and be of any kind


Node = Scalar | Listing | Mapping


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """What is wrong, and where."""

    line: int
    column: int
    field: str  # as in "tenants[3].models[0]"; empty: the file as a whole
    message: str

    def __str__(self) -> str:
        field = f"{self.field}: " if self.field else ""
        return f"line {self.line}, column {self.column}: {field}{self.message}"


class InvalidPolicy(ValueError):
    """The file can't be used as it stands; `problems` lists all that is wrong with it."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = sorted(problems)
        shown = [str(problem) for problem in self.problems[:_SHOWN]]
        if len(self.problems) > _SHOWN:
            shown.append(f"and {len(self.problems) - _SHOWN} more")
        super().__init__("\n".join(shown))


def kind_of(node: Node) -> str:
    """What a node is, as a person would say it."""
    match node:
        case Listing():
            return "a list"
        case Mapping():
            return "a mapping"
        case Scalar(text="", quoted=False):
            return "nothing"
        case Scalar(text=text):
            return repr(text if len(text) <= 100 else f"{text[:100]}…")
