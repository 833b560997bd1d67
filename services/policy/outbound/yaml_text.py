"""Parses YAML text into nodes with positions, at the speed of libyaml and within bounds.

Reads libyaml's events rather than composing a document: composing recurses in C, so 20,000 nested
brackets end the process, and it follows aliases, so a kilobyte can stand for a gigabyte. Aliases,
anchors, tags and second documents are refused; a list of tenants needs none of them.
"""

import re
from typing import Any

import yaml

from services.policy.core.nodes import InvalidPolicy, Listing, Mapping, Node, Problem, Scalar

MAX_BYTES = 32 << 20  # eight times a file of 10,000 tenants
MAX_DEPTH = 16  # a policy is 5 deep

# YAML 1.2, 5.1: what may stand in a file
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def parse(content: bytes) -> Node | None:
    """The document's root; None when there is none.

    Raises:
        InvalidPolicy: not YAML, or more than a policy needs. Names the first place.
    """
    if len(content) > MAX_BYTES:
        raise _invalid(1, 1, f"must be at most {MAX_BYTES} bytes, got {len(content)}")
    text = _text(content)
    try:
        return _Tree().build(yaml.CSafeLoader(text))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        message = ", ".join(part for part in (error.context, error.problem) if part)
        raise _invalid(line, column, f"not YAML: {message}") from error


def _text(content: bytes) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8", "replace")
        raise _invalid(*_place(before), "not UTF-8") from error
    found = _UNPRINTABLE.search(text)
    if found:
        place = _place(text[: found.start()])
        raise _invalid(*place, f"must not hold the character {found.group()!r}")
    return text


def _place(before: str) -> tuple[int, int]:
    return before.count("\n") + 1, len(before) - before.rfind("\n")


class _Tree:
    def __init__(self) -> None:
        self._open: list[list[Any]] = [[]]  # children of each collection that has not ended

    def build(self, loader: yaml.CSafeLoader) -> Node | None:
        kinds = {
            yaml.SequenceStartEvent: self._start,
            yaml.MappingStartEvent: self._start,
            yaml.SequenceEndEvent: self._end_listing,
            yaml.MappingEndEvent: self._end_mapping,
            yaml.AliasEvent: self._refuse_alias,
            yaml.DocumentStartEvent: self._document,
        }
        scalar_kind = yaml.ScalarEvent
        while True:
            event: Any = loader.get_event()
            kind = type(event)
            if kind is scalar_kind:  # two thirds of all events, so without a call of its own
                if event.anchor is not None or event.tag is not None:
                    _refuse_extras(event)
                mark = event.start_mark
                self._open[-1].append(
                    Scalar(mark.line + 1, mark.column + 1, event.value, not event.implicit[0])
                )
            elif kind in kinds:
                kinds[kind](event)
            elif kind is yaml.StreamEndEvent:
                (document,) = self._open
                return document[0] if document else None

    def _start(self, event: Any) -> None:
        _refuse_extras(event)
        if len(self._open) > MAX_DEPTH:
            raise _at(event, f"nested more than {MAX_DEPTH} deep")
        children: list[Any] = []
        mark = event.start_mark
        line, column = mark.line + 1, mark.column + 1
        node: Node = (
            Mapping(line, column, children)
            if type(event) is yaml.MappingStartEvent
            else Listing(line, column, children)
        )
        self._open[-1].append(node)
        self._open.append(children)

    def _end_listing(self, event: Any) -> None:
        self._open.pop()

    def _end_mapping(self, event: Any) -> None:
        children = self._open.pop()
        children[:] = zip(children[::2], children[1::2], strict=True)

    def _document(self, event: Any) -> None:
        if self._open[0]:
            raise _at(event, "a second document; a policy is one")

    def _refuse_alias(self, event: Any) -> None:
        raise _at(event, "aliases are not allowed; write it out")


def _refuse_extras(event: Any) -> None:
    if event.anchor is not None:
        raise _at(event, "anchors are not allowed; write it out")
    if event.tag is not None:
        raise _at(event, f"tags are not allowed, got {event.tag[:100]}")


def _at(event: Any, message: str) -> InvalidPolicy:
    return _invalid(event.start_mark.line + 1, event.start_mark.column + 1, message)


def _invalid(line: int, column: int, message: str) -> InvalidPolicy:
    return InvalidPolicy([Problem(line, column, "", message)])
