"""Keys that policy makes: their life from creation to the end, and what may be done to them.

Of a secret only its keyed hash is kept, and it is made here alone (`hashed`; the router has its
twin). Time is wall time, since a key's end is a date.
"""

import hashlib
import hmac
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from services.policy.core.tenants import Policy, Tenant

PREFIX = "evf_"  # lets scanners for leaked secrets know one
SECRET_BYTES = 32
LONGEST_S = 3650 * 86_400  # ten years: what is longer was meant to be without end, or a slip

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,62}")
_NAME_EXPECTED = "1 to 63 letters, digits, '.', '_' and '-'"


class InvalidKeyRequest(ValueError):
    """`field` is wrong."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class KeyExists(ValueError):
    """The tenant has a key of this id."""


class KeyNotFound(LookupError):
    """Policy has made no such key, or it is revoked."""


class KeyInFile(ValueError):
    """The policy file's keys are changed there alone."""


@dataclass(frozen=True, slots=True)
class Secret:
    """What is kept of one: 32 bytes, and when it is good no more; None: it has no end."""

    hmac_sha256: bytes
    expires_unix_s: float | None = None

    def is_good(self, now_unix_s: float) -> bool:
        return self.expires_unix_s is None or now_unix_s < self.expires_unix_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    tenant: str
    id: str  # unique in its tenant
    workload: str
    secret: Secret
    created_unix_s: float
    rotated_unix_s: float | None = None  # None: its secret is the first
    former: Secret | None = None  # the secret before, while it is good beside the new one


@dataclass(frozen=True, slots=True)
class Keys:
    """All of them at one time. Another revision is another set."""

    revision: int = 0  # how often keys were changed
    all: Sequence[Key] = ()


class KeyStore(Protocol):
    """Durable. All raise when it can't be reached, and then nothing is known to have happened."""

    async def read(self) -> Keys: ...

    async def revision(self) -> int:
        """Of `read`, for less."""

    async def add(self, key: Key) -> Keys:
        """Raises KeyExists."""

    async def change(self, tenant: str, id_: str, change: Callable[[Key], Key]) -> Keys:
        """Raises KeyNotFound, and what `change` raises; it may be called several times."""

    async def remove(self, tenant: str, id_: str) -> Keys:
        """Raises KeyNotFound."""


def hashed(key_secret: bytes, secret: str) -> bytes:
    """What is kept of `secret`: of no use to anybody without the mesh's `key_secret`."""
    return hmac.digest(key_secret, secret.encode(), hashlib.sha256)


def checked_name(field: str, name: str) -> str:
    """Raises InvalidKeyRequest."""
    if not _NAME.fullmatch(name):
        raise InvalidKeyRequest(field, f"must be {_NAME_EXPECTED}, got {name[:100]!a}")
    return name


def end_of(lifetime_s: float | None, now_unix_s: float) -> float | None:
    """Raises InvalidKeyRequest."""
    if lifetime_s is None:
        return None
    if not 0 < lifetime_s <= LONGEST_S:
        raise InvalidKeyRequest("lifetime", "must be above 0 and at most ten years")
    return now_unix_s + lifetime_s


def owner_of(policy: Policy, tenant: str) -> Tenant:
    """Raises InvalidKeyRequest."""
    for each in policy.tenants:
        if each.id == tenant:
            return each
    raise InvalidKeyRequest("tenant", f"the policy has no tenant {tenant[:100]!a}")


def is_in_file(policy: Policy, tenant: str, id_: str) -> bool:
    return any(
        each.id == tenant and any(key.id == id_ for key in each.api_keys) for each in policy.tenants
    )


def rotated(
    key: Key, secret: bytes, *, overlap_s: float, lifetime_s: float | None, now_unix_s: float
) -> Key:
    """With another secret. The one before never gets a later end than it had.

    Raises InvalidKeyRequest.
    """
    if not 0 <= overlap_s <= LONGEST_S:
        raise InvalidKeyRequest("overlap", "must be 0 to ten years")
    end = end_of(lifetime_s, now_unix_s) if lifetime_s is not None else key.secret.expires_unix_s
    fresh = Secret(secret, end)
    if not fresh.is_good(now_unix_s):
        raise InvalidKeyRequest("lifetime", "the key has expired: say for how long it is good now")
    former = _ending(key.secret, now_unix_s + overlap_s) if overlap_s else None
    if former is not None and not former.is_good(now_unix_s):
        former = None  # it had expired
    return replace(key, secret=fresh, rotated_unix_s=now_unix_s, former=former)


def _ending(secret: Secret, at_unix_s: float) -> Secret:
    before = secret.expires_unix_s
    return replace(secret, expires_unix_s=at_unix_s if before is None else min(before, at_unix_s))
