"""Requests that budgets count, as a router sets aside for them, and journals for tests."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from evenflow.policy.v1 import ledger_service_pb2 as pb
from services.runtime.core.journal import ChargedAttempt
from services.runtime.core.reservations import Account, Reservation
from services.runtime.outbound.journal import FileJournal
from services.runtime.outbound.journal_file import JournalFile
from tests.fakes.runtime_mesh import owner

NOW_UNIX_S = 1_800_000_000.0
WINDOW = 1_799_999_940
PLENTY = 1_000_000
HARD = "acme/tokens"


def charge(
    budget: str = HARD,
    *,
    reserved: int = PLENTY,
    rates: tuple[int, int, int] = (1, 1, 1),
    hard: bool = True,
) -> str:
    return f"{budget}@{WINDOW}={reserved}:{':'.join(map(str, rates))}:{int(hard)}"


def charged(
    *charges: str, reservation: str = "router-1.7", covered: int = 2, attempt: str = "", **more: str
) -> tuple[tuple[str, str], ...]:
    """The gateway's metadata of a request that budgets count; by default a hard one."""
    told = owner(
        reservation=f"{reservation}/{covered}", charges=",".join(charges or [charge()]), **more
    )
    return (*told, ("x-envoy-attempt-count", attempt)) if attempt else told


def attempt(
    reservation: str = "router-1.7", number: int = 1, *, reserved: int = PLENTY, hard: bool = True
) -> ChargedAttempt:
    account = Account(HARD, WINDOW, reserved, 1, 1, 1, hard)
    return ChargedAttempt(
        reservation=Reservation(reservation, 2, (account,)),
        number=number,
        request_id="r-1",
        tenant="acme",
        workload="web",
        model="simulated",
        model_version="1",
    )


@contextmanager
def journaling(
    folder: Path,
    *,
    known: bool = True,
    most_attempts: int = 1000,
    now_unix_s: Callable[[], float] = lambda: NOW_UNIX_S,
) -> Iterator[FileJournal]:
    """`known`: policy has answered it."""
    file = JournalFile(folder / "journal.db")
    try:
        journal = FileJournal(file, now_unix_s=now_unix_s, most_attempts=most_attempts)
        if known:
            journal.booked(file.booked)
        yield journal
    finally:
        file.close()


def ends(journal: FileJournal) -> list[pb.AttemptUsage]:
    return [*journal.report(at_most=10_000)[0]]
