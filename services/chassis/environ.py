"""Reads a service's settings from the environment, once, and reports every problem at once."""

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

EX_CONFIG = 78  # sysexits.h: the configuration is wrong

T = TypeVar("T")


class InvalidConfig(ValueError):
    """Lists every problem found, so that one restart can fix them all."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen or connect: `host:port` or `unix:/path`."""

    text: str

    def __str__(self) -> str:
        return self.text

    @property
    def is_unix(self) -> bool:
        return self.text.startswith("unix:")

    @property
    def host(self) -> str:
        return self.text.rpartition(":")[0]

    @property
    def port(self) -> int:
        return int(self.text.rpartition(":")[2])


def setting(parse: Callable[[str], object], *, default: object = MISSING, help: str) -> Any:  # noqa: A002 - as argparse calls it
    """A field of a config dataclass. Without a default it is required."""
    metadata = {"parse": parse, "help": help}
    if default is MISSING:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


def read(cls: type[T], prefix: str, environ: Mapping[str, str]) -> T:
    """Builds `cls`, a dataclass of `setting` fields, from `PREFIX_FIELD` variables.

    An empty variable counts as unset.

    Raises:
        InvalidConfig: a variable is missing or wrong, or `cls` itself refuses the values.
    """
    values: dict[str, object] = {}
    problems: list[str] = []
    for each in fields(cls):  # type: ignore[arg-type] # every caller's cls is a dataclass
        name = f"{prefix}_{each.name.upper()}"
        text = environ.get(name, "")
        if text:
            try:
                values[each.name] = each.metadata["parse"](text)
            except ValueError as error:
                problems.append(f"{name}: {error}")
        elif each.default is MISSING:
            problems.append(f"{name} is not set: {each.metadata['help']}")
    if problems:
        raise InvalidConfig("\n".join(problems))
    try:
        return cls(**values)
    except ValueError as error:
        raise InvalidConfig(f"{prefix}: {error}") from error


def text(value: str) -> str:
    return value


def path(value: str) -> Path:
    return Path(value)


def names(value: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in value.split(",") if name.strip())


def addresses(value: str) -> tuple[Address, ...]:
    return tuple(address(name) for name in names(value))


def address(value: str) -> Address:
    if value.startswith("unix:/"):
        return Address(value)
    host, _, port = value.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise ValueError(f"must be host:port or unix:/path, got {value}")
    return Address(value)


def positive(value: str) -> float:
    number = float(value)
    if not 0 < number < math.inf:
        raise ValueError(f"must be above 0, got {value}")
    return number


def not_negative(value: str) -> float:
    number = float(value)
    if not 0 <= number < math.inf:
        raise ValueError(f"must be at least 0, got {value}")
    return number


def positive_int(value: str) -> int:
    number = int(value)
    if number < 1:
        raise ValueError(f"must be at least 1, got {value}")
    return number


def count(value: str) -> int:
    number = int(value)
    if number < 0:
        raise ValueError(f"must be at least 0, got {value}")
    return number


def share(value: str) -> float:
    number = float(value)
    if not 0 <= number <= 1:
        raise ValueError(f"must be from 0 to 1, got {value}")
    return number


def flag(value: str) -> bool:
    try:
        return {"true": True, "1": True, "false": False, "0": False}[value.lower()]
    except KeyError:
        raise ValueError(f"must be true or false, got {value}") from None


def one_of(*allowed: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}, got {value}")
        return value

    return parse
