"""Prompts of the registry: which version a request gets that names one, and whether the variables
that it gives are of that version's types.

A label may say several versions, each with a share of a hundred. Which of them a request gets is a
matter of arithmetic: a hash of whose it is, the prompt, the label and the sticky key, so that all
routers say the same, and a conversation stays with its version for as long as the label stays.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from services.router.core.demands import InvalidDemand
from services.router.core.prefixes import START_BYTES
from services.router.core.value import value

USUAL_LABEL = "production"
MOST_VARIABLES = 64  # of a version
_ALL = 100  # what a label's shares add up to
_MOST_STICKY_CHARACTERS = 200
_LARGEST_WHOLE = 2**53
_SHOWN = 100

Given = str | float | bool | None  # None: neither text nor number nor truth


class PromptNotFound(LookupError):
    """The tenant has no such prompt, label or version; `field` says which."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class PromptsUnknown(Exception):
    """Policy has not said yet which prompts there are; come back."""


class Kind(Enum):
    STRING = "string"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    ENUM = "enum"


@dataclass(frozen=True, slots=True)
class Variable:
    kind: Kind
    required: bool
    uses: int
    default_bytes: int = 0
    max_length: int = 0  # characters of a string
    values: Sequence[str] = ()  # of an enum


@dataclass(frozen=True, slots=True)
class Version:
    number: int
    text_bytes: int  # of the template, without placeholders
    fixed_bytes: int = 0  # of these, those before the first placeholder
    variables: Mapping[str, Variable] = field(default_factory=dict)
    model: str = ""  # that answers; empty: the request names one
    output_tokens: int | None = None  # None, here and below: the request says, or nobody
    temperature: float | None = None


@dataclass(frozen=True, slots=True)
class Named:
    """As a request names a prompt."""

    name: str
    label: str = ""  # empty, without a version too: the usual one
    version: int | None = None
    variables: Mapping[str, Given] = field(default_factory=dict)
    sticky: str = ""  # empty: the request's own id


@value
class Chosen:
    """The version that a request gets, and how large it is with its variables."""

    name: str
    version: Version
    filled_bytes: int
    start: bytes  # stands for how the prompt begins, to prefix caches

    @property
    def tag(self) -> str:
        return f"{self.name}@{self.version.number}"

    def model(self, asked: str) -> str:
        """That answers. Raises InvalidDemand where another one is asked for."""
        pinned = self.version.model
        if pinned and asked and asked != pinned:
            text = f"{self.tag} is for {pinned}; leave the model out, or name that one"
            raise InvalidDemand("model", f"{text}, got {asked[:_SHOWN]!a}")
        return pinned or asked


class Registered:
    """What policy has told of one stream: more with each change."""

    def __init__(self) -> None:
        self._versions: dict[tuple[str, str], dict[int, Version]] = {}
        self._labels: dict[tuple[str, str, str], Sequence[tuple[int, int]]] = {}

    def add(self, tenant: str, name: str, version: Version) -> None:
        self._versions.setdefault((tenant, name), {})[version.number] = version

    def point(self, of: tuple[str, str, str], shares: Sequence[tuple[int, int]]) -> None:
        """`of`: tenant, name, label. `shares`: versions, and how many of a hundred each gets."""
        self._labels[of] = shares

    def version(self, tenant: str, request_id: str, named: Named) -> Version:
        """Raises PromptNotFound."""
        versions = self._versions.get((tenant, named.name))
        if versions is None:
            raise PromptNotFound("prompt.name", f"there is no prompt {_quoted(named.name)}")
        number = named.version
        if number is None:
            number = self._of_label(tenant, request_id, named)
        found = versions.get(number)
        if found is None:
            text = f"the prompt {named.name} has no version {number}"
            raise PromptNotFound("prompt.version", text)
        return found

    def _of_label(self, tenant: str, request_id: str, named: Named) -> int:
        label = named.label or USUAL_LABEL
        shares = self._labels.get((tenant, named.name, label))
        if shares is None:
            text = f"the prompt {named.name} has no label {_quoted(label)}"
            raise PromptNotFound("prompt.label", text)
        if len(shares) == 1:
            return shares[0][0]
        return drawn(shares, point(tenant, named.name, label, named.sticky or request_id))


class Prompts:
    """The registry as this router knows it."""

    def __init__(self) -> None:
        self.registered: Registered | None = None  # None: policy has not told all of it yet

    def choose(self, tenant: str, request_id: str, named: Named) -> Chosen:
        """Raises InvalidDemand, PromptNotFound, PromptsUnknown."""
        if self.registered is None:
            raise PromptsUnknown("the router has not heard of the registry of prompts yet")
        if len(named.sticky) > _MOST_STICKY_CHARACTERS:
            text = f"must have at most {_MOST_STICKY_CHARACTERS} characters"
            raise InvalidDemand("prompt.sticky", text)
        version = self.registered.version(tenant, request_id, named)
        given_bytes = _checked(named, version)
        return Chosen(
            name=named.name,
            version=version,
            filled_bytes=version.text_bytes + given_bytes,
            start=_start(named, version),
        )


def point(tenant: str, name: str, label: str, key: str) -> int:
    """0 to 99, the same for the same."""
    whole = f"{tenant}\0{name}\0{label}\0{key}".encode(errors="replace")
    return int.from_bytes(hashlib.sha256(whole).digest()[:8]) % _ALL


def drawn(shares: Sequence[tuple[int, int]], at: int) -> int:
    """The version whose share holds the point; shares lie side by side in their order."""
    for version, percent in shares:
        at -= percent
        if at < 0:
            return version
    raise ValueError(f"shares must add up to {_ALL}")


def _checked(named: Named, version: Version) -> int:
    """Bytes that its variables fill in. Raises InvalidDemand for the first that can't be."""
    for name in named.variables:
        if name not in version.variables:
            raise _wrong(name, f"is no variable of {named.name}@{version.number}")
    filled_bytes = 0
    for name, variable in version.variables.items():
        if name in named.variables:
            size_bytes = _size_bytes(name, variable, named.variables[name])
        elif variable.required:
            raise _wrong(name, "is required")
        else:
            size_bytes = variable.default_bytes
        filled_bytes += variable.uses * size_bytes
    return filled_bytes


def _size_bytes(name: str, variable: Variable, given: Given) -> int:
    """Never tells the value: it may be in a log."""
    kind = variable.kind
    if not _is_of(kind, given):
        raise _wrong(name, f"must be {_EXPECTED[kind]}")
    if kind is Kind.STRING and len(str(given)) > variable.max_length:
        text = f"must have at most {variable.max_length} characters, has {len(str(given))}"
        raise _wrong(name, text)
    if kind is Kind.ENUM and given not in variable.values:
        raise _wrong(name, f"must be one of {', '.join(map(ascii, variable.values))}")
    return len(str(given).encode(errors="replace"))


def _is_of(kind: Kind, given: Given) -> bool:
    match kind:
        case Kind.STRING | Kind.ENUM:
            return isinstance(given, str)
        case Kind.BOOLEAN:
            return isinstance(given, bool)
    if not isinstance(given, float) or not math.isfinite(given):  # true is no float
        return False
    return kind is Kind.NUMBER or (given.is_integer() and abs(given) <= _LARGEST_WHOLE)


def _wrong(name: str, message: str) -> InvalidDemand:
    shown = name if name.isascii() and name.isprintable() else ascii(name)
    return InvalidDemand(f"prompt.variables.{shown[:_SHOWN]}", message)


def _start(named: Named, version: Version) -> bytes:
    """The router has no templates. Its name, again and again, stands for a version's fixed text,
    and after it come the variables, so that requests that begin alike are known to do so."""
    tag = f"{named.name}@{version.number};".encode()
    fixed_bytes = min(version.fixed_bytes, START_BYTES)
    fixed = (tag * (1 + fixed_bytes // len(tag)))[:fixed_bytes]
    given = "\0".join(f"{name}\0{named.variables[name]}" for name in sorted(named.variables))
    return (fixed + tag + given[:START_BYTES].encode(errors="replace"))[:START_BYTES]


_EXPECTED: Mapping[Kind, str] = {
    Kind.STRING: "a string",
    Kind.INTEGER: "a whole number",
    Kind.NUMBER: "a finite number",
    Kind.BOOLEAN: "true or false",
    Kind.ENUM: "a string",
}


def _quoted(text: str) -> str:
    return ascii(text[:_SHOWN])
