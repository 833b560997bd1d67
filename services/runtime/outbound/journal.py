"""Writes down each attempt that budgets count, and knows what policy has still to hear.

When nothing can be written (a full disk, or more than it may hold because policy is long away),
what hard budgets count is refused and the rest goes on uncounted. An end that can't be written
waits in memory; if we die before it can, all that was set aside counts.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

import structlog
from google.protobuf.timestamp_pb2 import Timestamp

from evenflow.policy.v1 import ledger_service_pb2 as pb
from services.runtime.core.journal import ChargedAttempt, JournalUnwritable, LedgerUnreachable
from services.runtime.core.reservations import Usage
from services.runtime.outbound.journal_file import JournalFile

_LOOK_EVERY_S = 1.0

_log = structlog.get_logger(__name__)


class FileJournal:
    """`most_attempts`: that are neither booked nor forgotten; some 400 bytes each."""

    def __init__(
        self, file: JournalFile, *, now_unix_s: Callable[[], float], most_attempts: int
    ) -> None:
        """Ends what was under way when the process before died. Raises JournalUnwritable."""
        self.changed = asyncio.Event()  # something is there to report
        self._file = file
        self._now_unix_s = now_unix_s
        self._most_attempts = most_attempts
        self._open: dict[_Entry, float] = {}  # when each came
        self._unwritten: deque[tuple[_Entry, pb.AttemptUsage]] = deque()
        self._failing = False
        self._kept: int | None = file.last  # of the process before; None once policy has spoken
        self._recover()

    @property
    def id(self) -> str:
        return self._file.id

    @property
    def known(self) -> bool:
        """Policy has heard of it, and waits for it."""
        return self._file.known

    @property
    def reported(self) -> bool:
        """All that ended is booked."""
        return self._file.booked == self._file.last and not self._unwritten

    def enter(self, attempt: ChargedAttempt) -> "_Entry":
        """Raises JournalUnwritable, LedgerUnreachable."""
        if attempt.reservation.hard:
            if not self._file.known:
                raise LedgerUnreachable("policy has not heard of this runtime's journal yet")
            self._check()
        entry = _Entry(self, attempt)
        self._open[entry] = self._now_unix_s()
        return entry

    def report(self, *, at_most: int) -> tuple[Sequence[pb.AttemptUsage], Timestamp]:
        """The oldest that are not booked, and the time before which whatever came has ended and is
        among them; 0 where there are more. Nothing until policy has spoken: it may know more of us
        than we do."""
        if self._kept is not None:
            return (), Timestamp()
        try:
            rows = self._file.ends(at_most=at_most)
        except JournalUnwritable as error:
            self._fails(error)
            return (), Timestamp()
        until = min(self._now_unix_s(), *self._open.values(), _NEVER)
        return [_numbered(*row) for row in rows], _timestamp(until if len(rows) < at_most else 0.0)

    def booked(self, sequence: int) -> None:
        """What policy said."""
        try:
            if self._kept is not None and sequence > self._kept:  # a machine lost its power
                _log.error("journal.lost_ends", booked=sequence, kept=self._kept)
                self._file.renumber(after=self._kept, by=sequence - self._kept)
            if not self._file.known:
                _log.info("journal.known", journal=self._file.id)
            self._file.book(sequence)
        except JournalUnwritable as error:
            self._fails(error)
            return
        if self._kept is not None:
            self._kept = None
            self.changed.set()

    async def keep(self) -> None:
        """Until it is cancelled: moves the log along, and finds out when it can write again."""
        written = self._file.last
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            if self._failing:
                self.mend()
            if self._file.last != written:
                written = self._file.last
                await asyncio.to_thread(self._file.move)
                self._file.move_long()

    def mend(self) -> None:
        """Writes what could not be written, if it can be now."""
        with suppress(JournalUnwritable):
            self._file.touch()
            while self._unwritten:
                self._write(*self._unwritten[0])
                self._unwritten.popleft()
            if self._file.attempts < self._most_attempts:
                self._failing = False
                _log.info("journal.writable")

    def begin(self, entry: "_Entry", prompt_tokens: int) -> bool:
        """Whether it is written down. Raises JournalUnwritable, AttemptNotCovered."""
        attempt = entry.attempt
        presumed = _told(attempt, Usage(prompt_tokens, 0, 0))
        presumed.presumed = True
        for charge, account in zip(presumed.charges, attempt.reservation.accounts, strict=True):
            charge.units = account.reserved
        try:
            self._check()
            told = presumed.SerializeToString()
            self._file.begin(attempt.reservation.name, attempt.number, told)
        except JournalUnwritable as error:
            self._fails(error)
            if attempt.reservation.hard:
                raise
            return False
        return True

    def end(self, entry: "_Entry", usage: Usage) -> None:
        told = _told(entry.attempt, usage)
        told.ended_at.CopyFrom(_timestamp(self._now_unix_s()))
        try:
            self._write(entry, told)
        except JournalUnwritable as error:
            self._fails(error)
            self._unwritten.append((entry, told))

    def left(self, entry: "_Entry") -> None:
        """It has come and gone without work."""
        self._open.pop(entry, None)

    def _write(self, entry: "_Entry", told: pb.AttemptUsage) -> None:
        self._file.end(told.reservation, told.attempt, told.SerializeToString())
        del self._open[entry]
        self.changed.set()

    def _check(self) -> None:
        if self._failing or self._file.attempts >= self._most_attempts:
            raise JournalUnwritable("this runtime's journal has no room")

    def _fails(self, error: JournalUnwritable) -> None:
        if not self._failing:
            _log.error("journal.unwritable", problem=str(error), attempts=self._file.attempts)
        self._failing = True

    def _recover(self) -> None:
        begun = self._file.begun()
        now = _timestamp(self._now_unix_s())
        for reservation, attempt, told in begun:
            presumed = pb.AttemptUsage.FromString(told)
            presumed.ended_at.CopyFrom(now)
            self._file.end(reservation, attempt, presumed.SerializeToString())
        if begun:
            _log.warning("journal.presumed", attempts=len(begun))


class _Entry:
    """As core/journal.Entry says."""

    def __init__(self, journal: FileJournal, attempt: ChargedAttempt) -> None:
        self.attempt = attempt
        self._journal = journal
        self._begun = False
        self._over = False

    def begin(self, prompt_tokens: int) -> None:
        self._begun = self._journal.begin(self, prompt_tokens)

    def end(self, usage: Usage) -> None:
        if self._over:
            return
        self._over = True
        if self._begun:
            self._journal.end(self, usage)
        else:
            self._journal.left(self)


_NEVER = float("inf")


def _numbered(sequence: int, told: bytes) -> pb.AttemptUsage:
    usage = pb.AttemptUsage.FromString(told)
    usage.sequence = sequence
    return usage


def _told(attempt: ChargedAttempt, usage: Usage) -> pb.AttemptUsage:
    """Without a sequence, and without its end."""
    return pb.AttemptUsage(
        reservation=attempt.reservation.name,
        attempt=attempt.number,
        request_id=attempt.request_id,
        tenant=attempt.tenant,
        workload=attempt.workload,
        model=attempt.model,
        model_version=attempt.model_version,
        prompt_tokens=usage.prompt_tokens,
        cached_prompt_tokens=usage.cached_prompt_tokens,
        output_tokens=usage.output_tokens,
        charges=[
            pb.Charge(
                account=pb.Account(
                    budget=each.budget, window_start_unix_s=each.window_start_unix_s
                ),
                units=each.cost(usage),
            )
            for each in attempt.reservation.accounts
        ],
    )


def _timestamp(unix_s: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMicroseconds(int(unix_s * 1_000_000))
    return stamp
