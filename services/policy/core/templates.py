"""Takes a prompt's text apart: placeholders and what is between them. No logic, on purpose: whoever
fills it in writes values where placeholders are, and nothing that a value holds is read again.

`{{name}}` is a placeholder, spaces around the name allowed. `\\{{` stands for two braces, and of
backslashes right before two braces two stand for one; elsewhere a backslash is itself. (A sandbox
around an engine with logic, such as Jinja's, would have to be trusted to keep it out.)
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_OPENED = re.compile(r"(\\*)\{\{")
_REST = re.compile(r" *([a-z][a-z0-9_]{0,62}) *\}\}")
_BACKSLASH = "\\"


class InvalidTemplate(ValueError):
    """The text has two braces that no placeholder begins with; escape them."""


@dataclass(frozen=True, slots=True)
class Placeholder:
    variable: str


Part = str | Placeholder


def parts_of(text: str) -> Sequence[Part]:
    """No two texts in a row, and none empty. Raises InvalidTemplate."""
    return tuple(_joined(_pieces(text)))


def escaped(text: str) -> str:
    """Text whose only part is `text`."""
    return _OPENED.sub(lambda found: f"{found[1] * 2}{_BACKSLASH}{{{{", text)


def _pieces(text: str) -> Iterator[Part]:
    at = 0
    while found := _OPENED.search(text, at):
        backslashes = len(found[1])
        yield text[at : found.start()] + _BACKSLASH * (backslashes // 2)
        at = found.end()
        if backslashes % 2:
            yield "{{"
            continue
        name = _REST.match(text, at)
        if name is None:
            line = text.count("\n", 0, at) + 1
            raise InvalidTemplate(
                f"line {line}: two braces must begin a placeholder as {{{{name}}}}; "
                f"{_BACKSLASH}{{{{ stands for the braces themselves"
            )
        yield Placeholder(name[1])
        at = name.end()
    yield text[at:]


def _joined(pieces: Iterator[Part]) -> Iterator[Part]:
    text = ""
    for piece in pieces:
        if isinstance(piece, str):
            text += piece
            continue
        if text:
            yield text
            text = ""
        yield piece
    if text:
        yield text
