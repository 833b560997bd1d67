"""Which policy is in force: the file's, or an earlier version that somebody has pinned."""

from dataclasses import dataclass
from enum import Enum

KEPT = 1_000  # of the latest times that a policy came into force, however old
KEPT_FOR_S = 90 * 86_400  # older ones go after it
KEPT_AT_MOST = 10_000  # however young: a file that a program writes each minute must end somewhere
POLICY_ITSELF = "policy"  # the actor, where nobody asked for it


class Cause(Enum):
    FILE = "file"
    ROLL_BACK = "roll_back"
    FOLLOW = "follow"


class VersionNotFound(LookupError):
    """No version that is kept has this name, or several begin so; ListVersions has them."""


class VersionInvalid(ValueError):
    """It was good when it came into force and can't be used now; mend it and make it the file."""


class FileChanged(Exception):
    """The file became another while an earlier version was being pinned; roll back again if that
    is still meant."""


@dataclass(frozen=True, slots=True)
class Enforced:
    """A policy came into force."""

    version: str  # SHA-256 of its content, in hexadecimal
    since_unix_s: float
    cause: Cause
    actor: str  # SPIFFE ID, or POLICY_ITSELF
    tenants: int
    content_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Pin:
    version: str
    file_version: str  # of the file at that time
    since_unix_s: float
    actor: str

    def holds(self, file_version: str) -> bool:
        """Whoever writes the file after a roll-back means what he writes."""
        return file_version == self.file_version
