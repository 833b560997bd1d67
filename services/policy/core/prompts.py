"""What a version of a prompt says. One that exists is valid: every field is looked at here."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from services.policy.core.templates import InvalidTemplate, Part, Placeholder, parts_of

MOST_MESSAGES = 64
MOST_VARIABLES = 64
MOST_CHARACTERS = 200_000  # of all texts
MOST_FILLED_CHARACTERS = 1_000_000  # with the longest values
MOST_VALUE_CHARACTERS = 100_000
USUAL_VALUE_CHARACTERS = 1_000
MOST_VALUES = 100  # of an enum
MOST_ENUM_CHARACTERS = 200
LARGEST_WHOLE = 2**53  # JSON carries no larger ones exactly
_NUMBER_CHARACTERS = 24  # of any finite one, as it is written
_MOST_STOPS, _MOST_STOP_BYTES = 8, 256
_MOST_OUTPUT_TOKENS = 1_000_000_000

TENANT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_VARIABLE = re.compile(r"[a-z][a-z0-9_]{0,62}")
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}")
_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,15})")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,15})(\.[0-9]{1,16})?")


class InvalidPrompt(ValueError):
    """A field can't be meant; `field` names it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class Role(Enum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


class Type(Enum):
    STRING = "string"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    ENUM = "enum"


@dataclass(frozen=True, slots=True)
class TemplateMessage:
    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Variable:
    """`max_length` 0 means the usual one of a string."""

    name: str
    type: Type
    default: str | None = None  # as it is written; None: it must be given
    max_length: int = 0
    values: Sequence[str] = ()

    @property
    def most_characters(self) -> int:
        match self.type:
            case Type.STRING:
                return self.max_length or USUAL_VALUE_CHARACTERS
            case Type.ENUM:
                return max((len(each) for each in self.values), default=0)
        return _NUMBER_CHARACTERS

    def check(self, at: str) -> None:
        """Raises InvalidPrompt."""
        if not _VARIABLE.fullmatch(self.name):
            expected = "1 to 63 lower-case letters, digits and '_', a letter first"
            raise InvalidPrompt(f"{at}.name", f"must be {expected}, got {self.name[:100]!a}")
        if self.type is not Type.STRING and self.max_length:
            raise InvalidPrompt(f"{at}.max_length", "is of strings only")
        if not 0 <= self.max_length <= MOST_VALUE_CHARACTERS:
            expected = f"from 1 to {MOST_VALUE_CHARACTERS}"
            raise InvalidPrompt(f"{at}.max_length", f"must be {expected}, got {self.max_length}")
        self._check_values(f"{at}.values")
        if self.default is not None and not self._takes(self.default):
            raise InvalidPrompt(f"{at}.default", f"must be a value of the type {self.type.value}")

    def _check_values(self, at: str) -> None:
        if (self.type is Type.ENUM) != bool(self.values):
            raise InvalidPrompt(at, "are of enums, which need them")
        if len(self.values) > MOST_VALUES or len(set(self.values)) < len(self.values):
            raise InvalidPrompt(at, f"must be at most {MOST_VALUES}, each once")
        if not all(1 <= len(each) <= MOST_ENUM_CHARACTERS for each in self.values):
            raise InvalidPrompt(at, f"must each have 1 to {MOST_ENUM_CHARACTERS} characters")

    def _takes(self, written: str) -> bool:
        match self.type:
            case Type.STRING:
                return len(written) <= self.most_characters
            case Type.INTEGER:
                return bool(_WHOLE.fullmatch(written)) and abs(int(written)) <= LARGEST_WHOLE
            case Type.NUMBER:
                return bool(_NUMBER.fullmatch(written))
            case Type.BOOLEAN:
                return written in ("true", "false")
            case Type.ENUM:
                return written in self.values


@dataclass(frozen=True, slots=True)
class Defaults:
    """None: the mesh's own."""

    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: Sequence[str] = ()

    def check(self, at: str) -> None:
        """Raises InvalidPrompt."""
        most, temperature, top_p = self.max_output_tokens, self.temperature, self.top_p
        if most is not None and not 1 <= most <= _MOST_OUTPUT_TOKENS:
            raise InvalidPrompt(f"{at}.max_output_tokens", f"must be at least 1, got {most}")
        if temperature is not None and not 0.0 <= temperature <= 2.0:
            raise InvalidPrompt(f"{at}.temperature", f"must be from 0 to 2, got {temperature}")
        if top_p is not None and not 0.0 < top_p <= 1.0:
            raise InvalidPrompt(f"{at}.top_p", f"must be above 0 and at most 1, got {top_p}")
        if len(self.stop) > _MOST_STOPS:
            raise InvalidPrompt(f"{at}.stop", f"must have at most {_MOST_STOPS} strings")
        if not all(1 <= len(each.encode()) <= _MOST_STOP_BYTES for each in self.stop):
            raise InvalidPrompt(f"{at}.stop", f"each must have 1 to {_MOST_STOP_BYTES} bytes")


@dataclass(frozen=True, slots=True)
class Content:
    """Raises InvalidPrompt if it can't be used."""

    messages: Sequence[TemplateMessage]
    variables: Sequence[Variable] = ()
    model: str = ""  # empty: the request names one
    defaults: Defaults = field(default_factory=Defaults)
    parts: Sequence[Sequence[Part]] = field(init=False, compare=False)  # of each message

    def __post_init__(self) -> None:
        if not 1 <= len(self.messages) <= MOST_MESSAGES:
            expected = f"must be 1 to {MOST_MESSAGES}"
            raise InvalidPrompt("content.messages", f"{expected}, got {len(self.messages)}")
        if self.model and not _MODEL.fullmatch(self.model):
            raise InvalidPrompt(
                "content.model", f"must be a model's name, got {self.model[:100]!a}"
            )
        self.defaults.check("content.defaults")
        # After what bounds the work.
        if sum(len(each.content) for each in self.messages) > MOST_CHARACTERS:
            text = f"must have at most {MOST_CHARACTERS} characters together"
            raise InvalidPrompt("content.messages", text)
        object.__setattr__(self, "parts", _taken_apart(self.messages))
        self._check_variables()

    def uses(self) -> Mapping[str, int]:
        """How often each variable is used."""
        return Counter(
            part.variable for parts in self.parts for part in parts if isinstance(part, Placeholder)
        )

    def _check_variables(self) -> None:
        if len(self.variables) > MOST_VARIABLES:
            raise InvalidPrompt("content.variables", f"must be at most {MOST_VARIABLES}")
        uses, known = self.uses(), set[str]()
        for number, each in enumerate(self.variables):
            at = f"content.variables[{number}]"
            each.check(at)
            if each.name in known:
                raise InvalidPrompt(f"{at}.name", f"is declared twice: {each.name}")
            if each.name not in uses:
                raise InvalidPrompt(f"{at}.name", f"is used in no message: {each.name}")
            known.add(each.name)
        for name in uses:
            if name not in known:
                raise InvalidPrompt("content.messages", f"use {name}, which is not declared")
        self._check_size(uses)

    def _check_size(self, uses: Mapping[str, int]) -> None:
        written = sum(len(each.content) for each in self.messages)
        filled = written + sum(uses[each.name] * each.most_characters for each in self.variables)
        if filled > MOST_FILLED_CHARACTERS:
            text = f"could become {filled} characters with the longest values"
            raise InvalidPrompt("content.variables", f"{text}, at most {MOST_FILLED_CHARACTERS}")


def _taken_apart(messages: Sequence[TemplateMessage]) -> Sequence[Sequence[Part]]:
    taken = []
    for number, each in enumerate(messages):
        try:
            taken.append(parts_of(each.content))
        except InvalidTemplate as error:
            raise InvalidPrompt(f"content.messages[{number}].content", str(error)) from error
    return tuple(taken)
