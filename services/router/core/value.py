"""Values that are made for every request."""

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

_T = TypeVar("_T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(cls: type[_T]) -> type[_T]:
    """A frozen dataclass with slots, whose freezing is left to the type checker.

    Python makes a dataclass that it has to freeze itself three times as slowly, field by field;
    some twenty are made for each request (docs/performance.md).
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)
