"""Where attempts are written down before and after their work: the port to what outlives us."""

from dataclasses import dataclass
from typing import Protocol

from services.runtime.core.reservations import Reservation, Usage


class JournalUnwritable(Exception):
    """Nothing can be written down here now; another endpoint serves."""


class LedgerUnreachable(Exception):
    """Policy does not know of this journal, and would not wait for it; another endpoint serves."""


@dataclass(frozen=True, slots=True)
class ChargedAttempt:
    """One attempt at a request that budgets count."""

    reservation: Reservation
    number: int  # of the gateway's at this request, from 1
    request_id: str
    tenant: str
    workload: str
    model: str
    model_version: str


class Entry(Protocol):
    """One attempt's place in the journal. While it is open, the ledger waits for it."""

    def begin(self, prompt_tokens: int) -> None:
        """Before the engine works for it: if we die under it, all that is set aside counts.

        Raises JournalUnwritable and AttemptNotCovered: it was here before.
        """

    def end(self, usage: Usage) -> None:
        """What it truly used, before anybody is told. Only the first call counts; one that was
        not begun leaves nothing behind. Never fails."""


class Journal(Protocol):
    def enter(self, attempt: ChargedAttempt) -> Entry:
        """As soon as it has come. Raises JournalUnwritable and LedgerUnreachable."""


class NoJournal:
    """Of a runtime that knows no policy: what budgets count it can't take."""

    def enter(self, attempt: ChargedAttempt) -> Entry:
        raise LedgerUnreachable("this runtime knows no policy to report to")
