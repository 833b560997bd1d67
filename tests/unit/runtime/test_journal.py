"""Every attempt that was begun has one end, whatever happens to the process between."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from services.runtime.core.journal import Entry, JournalUnwritable, LedgerUnreachable
from services.runtime.core.reservations import AttemptNotCovered, Usage
from services.runtime.outbound.journal import FileJournal
from services.runtime.outbound.journal_file import JournalFile, JournalUnusable
from tests.fakes.charging import NOW_UNIX_S, attempt, ends, journaling

RESERVED = 50
Key = tuple[str, int]


def begun(journal: FileJournal, reservation: str = "r.1", number: int = 1) -> Entry:
    entry = journal.enter(attempt(reservation, number, reserved=RESERVED))
    entry.begin(10)
    return entry


def test_an_end_is_there_after_a_restart(tmp_path: Path) -> None:
    with journaling(tmp_path) as journal:
        begun(journal).end(Usage(10, 4, 5))
        before = ends(journal)

    with journaling(tmp_path) as journal:
        assert ends(journal) == before
        assert before[0].charges[0].units == 15


def test_what_died_under_way_counts_as_all_that_was_set_aside(tmp_path: Path) -> None:
    with journaling(tmp_path) as journal:
        begun(journal)

    with journaling(tmp_path) as journal:
        (end,) = ends(journal)

    assert (end.sequence, end.reservation, end.attempt, end.presumed) == (1, "r.1", 1, True)
    assert (end.charges[0].units, end.request_id, end.tenant) == (RESERVED, "r-1", "acme")
    assert end.ended_at.ToSeconds() == NOW_UNIX_S


def test_only_the_first_end_counts(tmp_path: Path) -> None:
    with journaling(tmp_path) as journal:
        entry = begun(journal)
        entry.end(Usage(10, 0, 5))
        entry.end(Usage(10, 0, 9))

        assert [each.output_tokens for each in ends(journal)] == [5]


def test_what_never_began_leaves_nothing(tmp_path: Path) -> None:
    with journaling(tmp_path) as journal:
        journal.enter(attempt()).end(Usage(10, 0, 0))

        assert not ends(journal)


def test_the_journal_keeps_its_name_and_that_it_is_known(tmp_path: Path) -> None:
    with journaling(tmp_path) as journal:
        name = journal.id

    with journaling(tmp_path, known=False) as journal:
        assert (journal.id, journal.known) == (name, True)


def test_a_new_one_takes_no_hard_budget_until_policy_has_spoken(tmp_path: Path) -> None:
    with journaling(tmp_path, known=False) as journal:
        with pytest.raises(LedgerUnreachable):
            journal.enter(attempt())
        journal.enter(attempt(hard=False)).begin(1)
        journal.booked(0)
        journal.enter(attempt(number=2)).begin(1)


def test_nothing_is_told_until_policy_has_spoken(tmp_path: Path) -> None:
    with journaling(tmp_path, known=False) as journal:
        begun_soft = journal.enter(attempt(hard=False))
        begun_soft.begin(1)
        begun_soft.end(Usage(1, 0, 1))
        before = journal.report(at_most=10)
        journal.booked(0)

        assert before == ((), Timestamp())
        assert len(ends(journal)) == 1


def test_ends_that_a_power_cut_took_are_not_numbered_again(tmp_path: Path) -> None:
    """Policy has booked 7; the file knows of 1 to 3, and of one that was under way."""
    with journaling(tmp_path) as journal:
        for number in (1, 2, 3):
            begun(journal, "r.1", number).end(Usage(1, 0, 1))
        begun(journal, "r.2")

    with journaling(tmp_path, known=False) as journal:
        journal.booked(7)
        begun(journal, "r.3").end(Usage(1, 0, 1))

        assert [(each.sequence, each.reservation) for each in ends(journal)] == [
            (8, "r.2"),
            (9, "r.3"),
        ]


def test_told_until_waits_for_the_oldest_that_has_come(tmp_path: Path) -> None:
    now = [100.0]
    with journaling(tmp_path, now_unix_s=lambda: now[0]) as journal:
        told = []
        for at, event in ((100.0, "comes"), (107.5, "looks"), (109.0, "ends")):
            now[0] = at
            if event == "comes":
                entry = journal.enter(attempt())
            if event == "ends":
                entry.end(Usage(0, 0, 0))
            until = journal.report(at_most=10)[1]
            told.append(until.ToMilliseconds())

        assert told == [100_000, 100_000, 109_000]


def test_told_until_is_not_said_while_there_is_more_to_tell(tmp_path: Path) -> None:
    with journaling(tmp_path) as journal:
        for number in (1, 2, 3):
            begun(journal, "r.1", number).end(Usage(1, 0, 1))

        attempts, until = journal.report(at_most=2)

        assert ([each.sequence for each in attempts], until) == ([1, 2], Timestamp())


def test_a_full_journal_refuses_hard_budgets_and_still_writes_ends(tmp_path: Path) -> None:
    with journaling(tmp_path, most_attempts=2) as journal:
        entries = [begun(journal, "r.1", number) for number in (1, 2)]
        with pytest.raises(JournalUnwritable):
            journal.enter(attempt("r.2"))
        journal.enter(attempt("r.3", hard=False)).begin(1)
        for each in entries:
            each.end(Usage(1, 0, 1))
        assert len(ends(journal)) == 2
        journal.booked(2)
        journal.mend()
        begun(journal, "r.4")


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """No file of ours may grow: writes fail as they do when the disk is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (folder / "journal.db-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_an_end_that_could_not_be_written_is_written_later(tmp_path: Path) -> None:
    with journaling(tmp_path) as journal:
        entry, under_way = begun(journal), begun(journal, "r.2")
        with full_disk(tmp_path):
            entry.end(Usage(10, 0, 5))
            held_back = ends(journal)
            with pytest.raises(JournalUnwritable):
                journal.enter(attempt("r.3"))
            journal.enter(attempt("r.4", hard=False)).begin(1)
            journal.mend()
        with pytest.raises(JournalUnwritable):
            journal.enter(attempt("r.3"))
        journal.mend()
        begun(journal, "r.3")
        under_way.end(Usage(10, 0, 1))

        assert not held_back
        assert [(each.reservation, each.output_tokens) for each in ends(journal)] == [
            ("r.1", 5),
            ("r.2", 1),
        ]


def test_told_until_waits_for_an_end_that_could_not_be_written(tmp_path: Path) -> None:
    now = [100.0]
    with journaling(tmp_path, now_unix_s=lambda: now[0]) as journal:
        entry = begun(journal)
        now[0] = 105.0
        with full_disk(tmp_path):
            entry.end(Usage(10, 0, 5))
            until = journal.report(at_most=10)[1]

        assert until.ToSeconds() == 100


def test_two_processes_never_share_a_journal(tmp_path: Path) -> None:
    with journaling(tmp_path), pytest.raises(JournalUnusable, match=r"journal\.db"):
        JournalFile(tmp_path / "journal.db")


def test_a_file_that_is_no_journal_says_so(tmp_path: Path) -> None:
    (tmp_path / "journal.db").write_text("not a database" * 100)

    with pytest.raises(JournalUnusable, match="not a database"):
        JournalFile(tmp_path / "journal.db")


def test_the_log_is_moved_into_the_file(tmp_path: Path) -> None:
    file = JournalFile(tmp_path / "journal.db")
    for number in range(300):
        file.begin("r.1", number, b"x" * 300)
        file.end("r.1", number, b"x" * 300)
    file.move()
    grown = (tmp_path / "journal.db").stat().st_size
    file.close()

    assert grown > 300 * 300


keys = st.tuples(st.sampled_from(["r.1", "r.2"]), st.integers(1, 3))
events = st.one_of(
    st.tuples(st.sampled_from(["begin", "end", "leave"]), keys),
    st.tuples(st.just("die"), st.none()),
    st.tuples(st.just("book"), st.integers(0, 12)),
)


class Oracle:
    """Attempts by what has become of them; policy's books."""

    def __init__(self) -> None:
        self.under_way: dict[Key, Entry] = {}
        self.ended: list[tuple[Key, bool]] = []  # in their order; presumed?
        self.booked = 0

    def kept(self) -> set[Key]:
        return {key for key, _ in self.ended[self.booked :]} | set(self.under_way)


@settings(deadline=None, max_examples=60)  # files
@given(st.lists(events, max_size=25))
def test_every_attempt_that_began_has_one_end_in_its_order(
    events: list[tuple[str, Key | int | None]],
) -> None:
    oracle = Oracle()
    with TemporaryDirectory(prefix="journal-") as folder:
        rest = iter(events)
        alive = True
        while alive:
            alive = False
            with journaling(Path(folder)) as journal:
                oracle.ended += [(key, True) for key in sorted(oracle.under_way)]
                oracle.under_way.clear()
                for event, of in rest:
                    if event == "die":
                        alive = True
                        break
                    step(journal, oracle, event, of)
                    told = [((e.reservation, e.attempt), e.presumed) for e in ends(journal)]
                    assert told == oracle.ended[oracle.booked :]
                    sequences = [each.sequence for each in ends(journal)]
                    first = oracle.booked + 1
                    assert sequences == [*range(first, first + len(sequences))]


def step(journal: FileJournal, oracle: Oracle, event: str, of: Key | int | None) -> None:
    if isinstance(of, int):
        oracle.booked = max(oracle.booked, min(of, len(oracle.ended)))
        journal.booked(of)
    elif of is not None and event == "begin":
        if of in oracle.kept():
            with pytest.raises(AttemptNotCovered):
                begun(journal, *of)
        else:
            oracle.under_way[of] = begun(journal, *of)
    elif of is not None and of in oracle.under_way and event == "end":
        oracle.under_way.pop(of).end(Usage(10, 0, 1))
        oracle.ended.append((of, False))
