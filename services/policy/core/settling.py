"""What runtimes report of their attempts, and which of it is news.

A runtime keeps a journal that outlives its process. It numbers what it tells from 1 and tells it
again until it hears that it is booked; so nothing is lost, and nothing may be left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from services.policy.core.ledger import Account


class AttemptKey(NamedTuple):
    """Names one attempt for good."""

    reservation: str  # "<router instance>.<n>"
    attempt: int  # from 1


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptUsage:
    """What one attempt truly took."""

    sequence: int  # in its journal
    key: AttemptKey
    charges: Mapping[Account, int]
    request_id: str = ""
    tenant: str = ""
    workload: str = ""
    model: str = ""
    model_version: str = ""
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    output_tokens: int = 0
    ended_unix_s: float = 0.0
    presumed: bool = False  # its process died under it: it counts as all that was set aside

    @property
    def router(self) -> str:
        """Who let it go."""
        return self.key.reservation.rpartition(".")[0]


@dataclass(frozen=True, slots=True)
class Journal:
    """A runtime's journal, as the ledger knows it."""

    endpoint: str
    told_until_unix_s: float  # whatever began before has ended, and was told
    booked: int = 0  # the last of its attempts that is booked; 0: none
    forgotten: bool = False  # an operator says that it is gone for good; until it speaks again


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    journal: str
    endpoint: str
    told_until_unix_s: float
    attempts: Sequence[AttemptUsage] = ()


@dataclass(frozen=True, slots=True)
class Settlement:
    """An attempt that is booked."""

    number: int  # each is higher than the one before; there may be gaps
    key: AttemptKey
    charges: Mapping[Account, int]


@dataclass(frozen=True, slots=True)
class News:
    """For one router."""

    settlements: Sequence[Settlement]
    settled_until_unix_s: float | None  # what ended before is told by now; None: nobody knows
    more: bool = False  # settlements, at once


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of a report."""

    booked: int  # number of the last attempt of its journal that is booked for good; 0: none
    new: int = 0  # attempts that were not booked before
    first: int = 0  # of the journal's attempts, where it began with this report; 0: it did not


class LeftOut(ValueError):
    """A report goes on behind what was booked, so attempts between were never told."""

    field = "attempts"


def accepted(known: Journal | None, report: Report) -> tuple[Journal, list[AttemptUsage]]:
    """The journal after the report, and what of it was not booked yet.

    A journal of which nothing is booked may begin anywhere: it was forgotten, or the books are new.
    Raises LeftOut.
    """
    booked = known.booked if known else 0
    fresh, before = [], 0
    for attempt in report.attempts:
        expected = before + 1 if before else min(attempt.sequence, booked + 1)
        if attempt.sequence != expected and (before or booked):
            raise LeftOut(f"attempts must go on at {expected}, got {attempt.sequence}")
        before = attempt.sequence
        if before > booked:
            fresh.append(attempt)
    told = max(known.told_until_unix_s if known else 0.0, report.told_until_unix_s)
    return Journal(report.endpoint, told, max(booked, before)), fresh
