"""The journal's file: attempts that were begun, and the ends that policy has not booked yet.

SQLite with a write-ahead log. A write is in the system's hands when it returns, and outlives this
process; a machine that loses its power may lose the last of them. No write waits for the disk but
one in some thousands: the log is moved into the file from a thread of its own. No prompts in it.
"""

import fcntl
import sqlite3
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from services.runtime.core.journal import JournalUnwritable
from services.runtime.core.reservations import AttemptNotCovered

_LONG_LOG_BYTES = 64 << 20  # the threads' moves never meet a moment without writes
_TABLES = """
CREATE TABLE IF NOT EXISTS journal (
    id TEXT NOT NULL, booked INTEGER NOT NULL, known INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS begun (
    reservation TEXT, attempt INTEGER, told BLOB NOT NULL, PRIMARY KEY (reservation, attempt)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ended (
    sequence INTEGER PRIMARY KEY, reservation TEXT, attempt INTEGER, told BLOB NOT NULL,
    UNIQUE (reservation, attempt)
);
"""
_BEGIN = """
INSERT INTO begun SELECT ?1, ?2, ?3
WHERE NOT EXISTS (SELECT 1 FROM ended WHERE reservation = ?1 AND attempt = ?2)
"""


class JournalUnusable(OSError):
    """It can't be opened, or another process has it; mend the file, or name another."""


class JournalFile:
    """Every method raises JournalUnwritable when the file can't be read or written.

    `known`: policy has heard of it once. `booked`: sequence of the last end that is forgotten.
    `last`: of the last that there ever was.
    """

    def __init__(self, path: Path) -> None:
        """Raises JournalUnusable."""
        self.path = path
        self._in_use = threading.Lock()  # guards the mover, which a thread may still use at the end
        with ExitStack() as opened:
            try:
                self._open(opened)
            except (OSError, sqlite3.Error) as error:
                raise JournalUnusable(f"can't use the journal {path}: {error}") from error
            self._opened = opened.pop_all()

    def _open(self, opened: ExitStack) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = opened.enter_context(self.path.with_name(f"{self.path.name}.lock").open("w"))
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._db = opened.enter_context(closing(sqlite3.connect(self.path, isolation_level=None)))
        moving = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        self._mover = opened.enter_context(closing(moving))
        for each in (self._db, self._mover):
            each.execute("PRAGMA journal_mode = WAL")
            each.execute("PRAGMA synchronous = NORMAL")
            each.execute("PRAGMA wal_autocheckpoint = 0")
        self._db.executescript(_TABLES)
        if self._db.execute("SELECT 1 FROM journal").fetchone() is None:
            self._db.execute("INSERT INTO journal VALUES (?, 0, 0)", (uuid.uuid4().hex,))
        self._read()

    def _read(self) -> None:
        row = self._db.execute("SELECT id, booked, known FROM journal").fetchone()
        self.id: str = row[0]
        self.booked: int = row[1]
        self.known = bool(row[2])
        last, ended = self._db.execute("SELECT max(sequence), count(*) FROM ended").fetchone()
        self.last: int = max(self.booked, last or 0)
        self.attempts: int = ended + self._db.execute("SELECT count(*) FROM begun").fetchone()[0]

    def begin(self, reservation: str, attempt: int, told: bytes) -> None:
        """`told`: what its end is if we die. Raises AttemptNotCovered: it is here already."""
        try:
            added = self._db.execute(_BEGIN, (reservation, attempt, told)).rowcount
        except sqlite3.IntegrityError:
            added = 0
        except sqlite3.Error as error:
            raise _unwritable(error) from error
        if not added:
            raise AttemptNotCovered(f"attempt {attempt} of this request was here before")
        self.attempts += 1

    def end(self, reservation: str, attempt: int, told: bytes) -> None:
        key = (reservation, attempt)
        with self._written():
            self._db.execute("DELETE FROM begun WHERE reservation = ? AND attempt = ?", key)
            row = (self.last + 1, *key, told)
            self._db.execute("INSERT INTO ended VALUES (?, ?, ?, ?)", row)
        self.last += 1

    def begun(self) -> Sequence[tuple[str, int, bytes]]:
        with self._read_errors():
            return self._db.execute("SELECT reservation, attempt, told FROM begun").fetchall()

    def ends(self, *, at_most: int) -> Sequence[tuple[int, bytes]]:
        """The oldest, with their sequence."""
        with self._read_errors():
            rows = "SELECT sequence, told FROM ended ORDER BY sequence LIMIT ?"
            return self._db.execute(rows, (at_most,)).fetchall()

    def book(self, sequence: int) -> None:
        """Forgets all up to here. Policy has answered, so it knows the journal."""
        if self.known and sequence <= self.booked:
            return
        booked = min(max(self.booked, sequence), self.last)
        with self._written():
            self._db.execute("UPDATE journal SET booked = ?, known = 1", (booked,))
            gone = self._db.execute("DELETE FROM ended WHERE sequence <= ?", (booked,)).rowcount
        self.booked, self.known = booked, True
        self.attempts -= gone

    def renumber(self, *, after: int, by: int) -> None:
        """Ends with a sequence above `after` get one that is higher by this."""
        with self._written():
            up = "UPDATE ended SET sequence = -(sequence + ?) WHERE sequence > ?"
            self._db.execute(up, (by, after))  # aside first: no two may meet on the way
            self._db.execute("UPDATE ended SET sequence = -sequence WHERE sequence < 0")
        self.last += by

    def touch(self) -> None:
        """A write that changes nothing: whether there is room again."""
        with self._written():
            self._db.execute("UPDATE journal SET known = known")

    def move(self) -> None:
        """What is in the log into the file; waits for the disk, so from a thread. Never fails:
        what can't be moved stays in the log."""
        with self._in_use, self._moving():
            self._mover.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def move_long(self) -> None:
        """The rest of a log that is too long, between two writes: in the thread that writes."""
        log = self.path.with_name(f"{self.path.name}-wal")
        if log.exists() and log.stat().st_size > _LONG_LOG_BYTES:
            with self._moving():
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def close(self) -> None:
        with self._in_use:
            self._opened.close()

    @contextmanager
    def _written(self) -> Iterator[None]:
        """All of it or nothing."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise _unwritable(error) from error
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    @contextmanager
    def _read_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise JournalUnwritable(f"the journal can't be read: {error}") from error

    @contextmanager
    def _moving(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error:
            return


def _unwritable(error: sqlite3.Error) -> JournalUnwritable:
    return JournalUnwritable(f"the journal can't be written: {error}")
