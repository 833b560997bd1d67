"""What policy hears of a journal, whatever becomes of policy: over real gRPC."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from deploy.local.aside import free_port
from services.chassis.identity import TlsFiles
from services.runtime.core.reservations import Usage
from services.runtime.outbound.journal import FileJournal
from services.runtime.outbound.settling import Reporter
from tests.fakes.charging import attempt, journaling
from tests.fakes.ledger import Books, Faults, Ledger, listening
from tests.identities import Identities

T = TypeVar("T")

ENDPOINT = "127.0.0.1:9101"


@pytest.fixture
def identities(tmp_path: Path) -> Identities:
    return Identities(tmp_path)


@asynccontextmanager
async def reporting(
    folder: Path, where: str, tls: TlsFiles, *, now_unix_s: Callable[[], float] = lambda: 100.0
) -> AsyncIterator[FileJournal]:
    """A runtime's journal, told to the ledger at `where`."""
    with journaling(folder, known=False, now_unix_s=now_unix_s) as journal:
        reporter = Reporter(journal, where, tls, endpoint=ENDPOINT)
        async with asyncio.TaskGroup() as tasks:
            run = tasks.create_task(reporter.run(random.Random(7)))  # noqa: S311 - jitter
            yield journal
            run.cancel()


def works(journal: FileJournal, *numbers: int) -> None:
    """Attempts that use ten units each."""
    for number in numbers:
        entry = journal.enter(attempt("r.1", number, hard=False))
        entry.begin(4)
        entry.end(Usage(4, 0, 6))


def run(body: Coroutine[Any, Any, T]) -> T:
    async def within() -> T:
        async with asyncio.timeout(40):
            return await body

    return asyncio.run(within())


def test_a_ledger_hears_of_the_journal_and_of_every_end(
    tmp_path: Path, identities: Identities
) -> None:
    ledger = Ledger(Books())

    async def scenario() -> tuple[str, set[str]]:
        async with (
            listening(ledger, identities.service("policy")) as where,
            reporting(tmp_path, where, identities.service("runtime")) as journal,
        ):
            await ledger.books.until(lambda books: journal.id in books.sequences)
            await ledger.books.until(lambda _: journal.known)
            works(journal, 1, 2, 3)
            await ledger.books.of(3)
            await ledger.books.until(lambda _: journal.reported)
            return journal.id, {each.endpoint for each in ledger.requests}

    journal, endpoints = run(scenario())

    assert [each.sequence for each in ledger.books.attempts.values()] == [1, 2, 3]
    assert sum(ledger.books.spent.values()) == 30
    assert (ledger.books.sequences, endpoints) == ({journal: 3}, {ENDPOINT})


@pytest.mark.parametrize(
    "faults", [Faults(forgets=3), Faults(repeats=True), Faults(behind=2)], ids=repr
)
def test_every_end_is_booked_once_whatever_is_lost_or_said_twice(
    tmp_path: Path, identities: Identities, faults: Faults
) -> None:
    ledger = Ledger(Books(), faults)

    async def scenario() -> None:
        async with (
            listening(ledger, identities.service("policy")) as where,
            reporting(tmp_path, where, identities.service("runtime")) as journal,
        ):
            for number in range(1, 6):
                works(journal, number)
                await ledger.books.of(number)
            ledger.faults = Faults()
            await ledger.books.until(lambda _: journal.reported)

    run(scenario())

    assert [each.attempt for each in ledger.books.attempts.values()] == [1, 2, 3, 4, 5]
    assert (sum(ledger.books.spent.values()), ledger.books.gaps) == (50, [])


def test_a_ledger_that_says_nothing_is_asked_again(tmp_path: Path, identities: Identities) -> None:
    ledger = Ledger(Books(), Faults(mute=True))

    async def scenario() -> int:
        async with (
            listening(ledger, identities.service("policy")) as where,
            reporting(tmp_path, where, identities.service("runtime")) as journal,
        ):
            await ledger.books.until(lambda _: ledger.streams > 0)
            ledger.faults = Faults()
            works(journal, 1)
            await ledger.books.of(1)
            return ledger.streams

    assert run(scenario()) == 2


def test_a_ledger_that_died_hears_all_when_it_is_back(
    tmp_path: Path, identities: Identities
) -> None:
    port, books = free_port(), Books()
    policy = identities.service("policy")

    async def scenario() -> None:
        where = f"127.0.0.1:{port}"
        async with reporting(tmp_path, where, identities.service("runtime")) as journal:
            async with listening(Ledger(books), policy, port=port):
                works(journal, 1)
                await books.of(1)
            works(journal, 2, 3)
            async with listening(Ledger(books), policy, port=port):
                works(journal, 4)
                await books.of(4)

    run(scenario())

    assert [each.sequence for each in books.attempts.values()] == [1, 2, 3, 4]
    assert books.gaps == []


def test_more_than_a_message_holds_is_told_in_several(
    tmp_path: Path, identities: Identities
) -> None:
    ledger = Ledger(Books())

    async def scenario() -> list[bool]:
        with journaling(tmp_path, known=False, most_attempts=5000) as journal:
            works(journal, *range(1, 1201))
        async with (
            listening(ledger, identities.service("policy")) as where,
            reporting(tmp_path, where, identities.service("runtime")) as journal,
        ):
            await ledger.books.until(lambda _: journal.reported)
            first = [each for each in ledger.requests if each.attempts][:3]
            assert [len(each.attempts) for each in first] == [500, 500, 200]
            return [each.told_until.seconds > 0 for each in first]

    assert run(scenario()) == [False, False, True]
    assert len(ledger.books.attempts) == 1200


def test_the_time_until_which_all_is_told_goes_on_without_attempts(
    tmp_path: Path, identities: Identities
) -> None:
    now, ledger = [100.0], Ledger(Books())

    async def scenario() -> float:
        async with (
            listening(ledger, identities.service("policy")) as where,
            reporting(
                tmp_path, where, identities.service("runtime"), now_unix_s=lambda: now[0]
            ) as journal,
        ):
            await ledger.books.until(lambda books: books.told_until.get(journal.id) == 100.0)
            entry = journal.enter(attempt(hard=False))
            now[0] = 160.0
            told = len(ledger.requests)
            await ledger.books.until(lambda _: len(ledger.requests) > told)
            held_back = ledger.books.told_until[journal.id]
            entry.end(Usage(0, 0, 0))
            await ledger.books.until(lambda books: books.told_until[journal.id] == 160.0)
            return held_back

    assert run(scenario()) == 100.0


def test_an_end_is_told_within_a_tenth_of_a_second(tmp_path: Path, identities: Identities) -> None:
    ledger = Ledger(Books())

    async def scenario() -> float:
        clock = asyncio.get_running_loop().time
        async with (
            listening(ledger, identities.service("policy")) as where,
            reporting(tmp_path, where, identities.service("runtime")) as journal,
        ):
            await ledger.books.until(lambda books: bool(books.told_until))
            took_s = []
            for number in range(1, 8):
                began_s = clock()
                works(journal, number)
                await ledger.books.of(number)
                took_s.append(clock() - began_s)
            return sorted(took_s)[3]  # a busy machine is late now and then

    assert run(scenario()) < 0.15
