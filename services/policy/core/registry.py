"""What the registry of prompts keeps, and what it is asked to do."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from services.policy.core.labels import Move, Share
from services.policy.core.prompts import NAME, TENANT, Content, InvalidPrompt


class PromptNotFound(LookupError):
    """The tenant has no such prompt, version or label; see ListPrompts."""


class PromptVersionExists(Exception):
    """The version has other content, which never changes; create the next one."""


class RegistryUnreachable(Exception):
    """What was asked for may not have happened; look, and come back."""

    retry_after_s = 1.0


@dataclass(frozen=True, slots=True)
class Key:
    """Names one prompt. Raises InvalidPrompt."""

    tenant: str
    name: str

    def __post_init__(self) -> None:
        if not TENANT.fullmatch(self.tenant):
            expected = "1 to 63 lower-case letters, digits and '-'"
            raise InvalidPrompt("tenant", f"must be {expected}, got {self.tenant[:100]!a}")
        if not NAME.fullmatch(self.name):
            expected = "1 to 63 lower-case letters, digits, '.', '_' and '-'"
            raise InvalidPrompt("name", f"must be {expected}, got {self.name[:100]!a}")


@dataclass(frozen=True, slots=True)
class Author:
    """Who does something, and when."""

    name: str  # SPIFFE ID
    at_unix_s: float


@dataclass(frozen=True, slots=True)
class Version:
    number: int
    content: Content
    author: Author


@dataclass(frozen=True, slots=True)
class Wanted:
    """A version to be."""

    number: int  # 0: the next
    content: Content


@dataclass(frozen=True, slots=True)
class Made:
    number: int
    is_new: bool


@dataclass(frozen=True, slots=True)
class Label:
    name: str
    moves: Sequence[tuple[Move, Author]]  # in order; at least one


@dataclass(frozen=True, slots=True)
class Summary:
    name: str
    versions: int
    labels: Sequence[Label]  # by name


@dataclass(frozen=True, slots=True)
class Change:
    """A version that is there, or what a label says."""

    revision: int
    key: Key
    what: "Version | Pointed"


@dataclass(frozen=True, slots=True)
class Changes:
    """Those up to a revision, in order."""

    changes: Sequence[Change]
    revision: int
    whole: bool  # there are no later ones


@dataclass(frozen=True, slots=True)
class Pointed:
    label: str
    shares: Sequence[Share]


class Registry(Protocol):
    """Durable once a call returns. Each raises RegistryUnreachable."""

    async def create(self, key: Key, wanted: Wanted, author: Author) -> Made:
        """Raises InvalidPrompt, PromptVersionExists."""

    async def version(self, key: Key, number: int) -> Version:
        """`number` 0: the latest. Raises PromptNotFound."""

    async def summaries(self, tenant: str, name: str) -> Sequence[Summary]:
        """By name. `name` empty: all of the tenant's."""

    async def point(self, key: Key, pointed: Pointed, author: Author) -> tuple[Move, bool]:
        """The label's last move, and whether it is new. Raises PromptNotFound."""

    async def roll_back(self, key: Key, label: str, author: Author) -> Move:
        """Raises PromptNotFound, NothingBefore."""

    async def changes(self, after: int) -> Changes:
        """The first of a higher revision; of a label, the last one. Revisions are numbered as
        changes happen, so what is of a lower one than any that was told is known by then."""
