"""Fills a prompt's template in. It comes taken apart, so nothing that a value holds is looked at:
braces and newlines in it are text like any other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.runtime.core.engine import InvalidInput, Message

Given = str | float | bool | None  # None: neither text nor number nor truth


@dataclass(frozen=True, slots=True)
class Placeholder:
    variable: str


@dataclass(frozen=True, slots=True)
class TemplateMessage:
    role: str
    parts: Sequence[str | Placeholder]


@dataclass(frozen=True, slots=True)
class Template:
    """One version of a prompt. Never changes."""

    messages: Sequence[TemplateMessage]
    defaults: Mapping[str, str] = field(default_factory=dict)  # of variables that may be left out
    model: str = ""  # that answers; empty: the request names one
    max_output_tokens: int | None = None  # of a request that does not say
    sampling: Mapping[str, Any] = field(default_factory=dict)  # likewise

    def filled(self, given: Mapping[str, Given]) -> tuple[Message, ...]:
        """Raises InvalidInput for a variable that is missing. The router has looked at types and
        lengths, and this runtime is called by the gateway alone."""
        values = {**self.defaults, **{name: written(value) for name, value in given.items()}}
        return tuple(Message(each.role, _text(each.parts, values)) for each in self.messages)


@dataclass(frozen=True, slots=True)
class Opening:
    """What a request gets of the prompt that it names: how its chat begins, and what it did not
    say itself."""

    messages: Sequence[Message] = ()
    model: str = ""
    max_output_tokens: int | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)


NO_PROMPT = Opening()


def opening(template: Template, given: Mapping[str, Given]) -> Opening:
    """Raises InvalidInput."""
    messages = template.filled(given)
    return Opening(messages, template.model, template.max_output_tokens, template.sampling)


def written(value: Given) -> str:
    """As JSON writes it, but text as it is."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(int(value)) if value.is_integer() and abs(value) < 1e16 else repr(value)


def _text(parts: Sequence[str | Placeholder], values: Mapping[str, str]) -> str:
    return "".join(each if isinstance(each, str) else _value(each, values) for each in parts)


def _value(placeholder: Placeholder, values: Mapping[str, str]) -> str:
    try:
        return values[placeholder.variable]
    except KeyError:
        raise InvalidInput(f"prompt.variables.{placeholder.variable}", "is required") from None
