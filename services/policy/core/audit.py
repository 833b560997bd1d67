"""What the audit log is told: who did what to what, by which policy, and what came of it.

Never a prompt, an output, a key or another secret.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """One thing that somebody did, or tried to do."""

    actor: str  # SPIFFE ID of who did it; "policy" where the service did so by itself
    action: str  # stable, noun.verb: "key.created"
    subject: str  # what it was done to: "acme/web-2026-11"
    outcome: str = "done"  # or the reason why not
    tenant: str = ""  # whom it concerns; empty: the mesh as a whole
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reported:
    """What another service says was done there."""

    sequence: int  # in its spool, from 1
    unix_us: int  # when
    policy: str  # version of the policy that it was done by; empty: none
    deed: Deed


@dataclass(frozen=True, slots=True)
class Spooled:
    """What another service had kept for the log, in order."""

    spool: str  # outlives its process
    entries: Sequence[Reported]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which entries of the log somebody wants to see."""

    from_number: int = 0
    since_unix_us: int | None = None  # from the first entry on that was done then or later
    tenant: str = ""
    action: str = ""  # whole, or up to a "."
    last: int = 0  # only so many; 0: all


class AuditUnavailable(Exception):
    """The audit log can't be written; what must be in it must not happen. Come back."""

    retry_after_s = 1.0


class Audit(Protocol):
    async def record(self, deed: Deed) -> None:
        """Durable once it returns. Raises AuditUnavailable."""
