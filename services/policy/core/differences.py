"""What one policy says otherwise than another, field by field.

It looks at the fields that a policy's values have, so that a new one is compared without a word
here. The order of names means nothing and is no difference; that of a ladder's rungs is one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any

from services.policy.core.tenants import Policy

_KEYS = ("id", "model", "workload_class")  # the first of these that a value has names it
_WHOLE = "policy"  # the subject of what belongs to no tenant, class or price


class Change(Enum):
    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True)
class Secret:
    """A value that is compared and never shown."""

    value: bytes

    def __repr__(self) -> str:
        return "secret"


Leaf = str | Secret


@dataclass(frozen=True, slots=True)
class Place:
    subject: str  # "tenants.acme"
    field: str  # "max_output_tokens", "budgets.daily.limit"


@dataclass(frozen=True, slots=True)
class Difference:
    place: Place
    old: Leaf | None  # None: absent
    new: Leaf | None  # likewise; never both

    @property
    def change(self) -> Change:
        if self.old is None:
            return Change.ADDED
        return Change.REMOVED if self.new is None else Change.CHANGED


View = Mapping[Place, Leaf]


def differences(old: Policy, new: Policy) -> Sequence[Difference]:
    """By place, as the policies list them: what is gone stands after what is there. Empty if and
    only if they say the same."""
    before, after = _subjects(old), _subjects(new)
    found: list[Difference] = []
    for subject in {**after, **before}:
        was, is_now = before.get(subject), after.get(subject)
        if was != is_now:  # most of 10,000 tenants are as they were, and need no closer look
            found.extend(_between(_seen(subject, was), _seen(subject, is_now)))
    return found


def view(policy: Policy) -> View:
    """All that it says, a field at a time; its version aside."""
    return {
        place: leaf
        for subject, each in _subjects(policy).items()
        for place, leaf in _seen(subject, each).items()
    }


def text(leaf: Leaf | None) -> str:
    """As people may see it."""
    return leaf if isinstance(leaf, str) else ""


def _between(old: View, new: View) -> Iterator[Difference]:
    for place in {**new, **old}:
        was, is_now = old.get(place), new.get(place)
        if was != is_now:
            yield Difference(place, was, is_now)


def _subjects(policy: Policy) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in _names(policy):
        said = getattr(policy, name)
        if isinstance(said, str | int):
            found[f"{_WHOLE}.{name}"] = said
        elif name != "version":
            found.update({f"{name}.{_key(each)}": each for each in said})
    found.pop(f"{_WHOLE}.version")
    return found


def _seen(subject: str, said: Any) -> View:
    if said is None:
        return {}
    if isinstance(said, str):
        whole, _, name = subject.partition(".")
        return {Place(whole, name): said} if said else {}
    return {Place(subject, field): leaf for field, leaf in _leaves(said, "")}


def _leaves(said: Any, at: str) -> Iterator[tuple[str, Leaf]]:
    """What says nothing is absent."""
    if is_dataclass(said):
        for name in _names(said):
            yield from _leaves(getattr(said, name), f"{at}.{name}" if at else name)
    elif isinstance(said, bytes):
        yield at, Secret(said)
    elif isinstance(said, (tuple, list, frozenset)):
        yield from _of_several(said, at)
    elif said not in (None, ""):
        yield at, _scalar(said)


def _of_several(said: Any, at: str) -> Iterator[tuple[str, Leaf]]:
    several = list(said)
    if all(is_dataclass(each) and _key(each) for each in several):
        for each in several:
            yield from _leaves(each, f"{at}.{_key(each)}")
    elif any(is_dataclass(each) for each in several):
        yield at, ", ".join(_written(each) for each in several)
    else:
        yield at, ", ".join(sorted({_scalar(each) for each in several}))


def _written(said: Any) -> str:
    """Of a value without a name of its own, whose place is its order."""
    return " ".join(f"{name} {leaf}" for name, leaf in _leaves(said, "") if leaf != "0")


def _scalar(said: Any) -> str:
    if isinstance(said, Enum):
        return str(said.value)
    if isinstance(said, bool):
        return "true" if said else "false"
    return f"{said:g}" if isinstance(said, float) else str(said)


def _key(said: Any) -> str:
    for name in _KEYS:
        if hasattr(said, name):
            return _scalar(getattr(said, name))
    return ""


def _names(said: Any) -> Sequence[str]:
    kind: Any = type(said)
    return _names_of(kind)


@cache
def _names_of(kind: Any) -> Sequence[str]:
    return [each.name for each in fields(kind)]
