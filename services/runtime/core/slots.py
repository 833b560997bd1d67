"""Which job gets which of an engine's slots, and whose prefix a free slot still holds.

llama.cpp keeps a slot's last prompt and knows no salt, so what a slot holds may be reused only by
a job of the same salt. Jobs wait by priority, then in the order they came.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from services.runtime.core.engine import Job


@dataclass(frozen=True, slots=True)
class Assignment:
    job: Job
    slot: int
    may_reuse: bool  # what the slot holds belongs to the job's own salt


@dataclass(slots=True)
class _Slot:
    index: int
    salt: str | None = None  # None: holds nothing
    tokens: Sequence[int] = ()  # of the last prompt
    freed: int = 0  # the higher, the later
    busy: bool = False


class Slots:
    def __init__(self, count: int) -> None:
        self._slots = [_Slot(index) for index in range(count)]
        self._waiting: list[Job] = []
        self._freed = 0

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def queue(self, job: Job) -> None:
        self._waiting.append(job)
        self._waiting.sort(key=lambda waiting: waiting.priority)  # stable: first come first

    def withdraw(self, job: Job) -> None:
        """A job that waits no more, or never did, is left alone."""
        self._waiting = [waiting for waiting in self._waiting if waiting is not job]

    def assign(self) -> Assignment | None:
        """The next job and its slot; None when no job waits or no slot is free."""
        free = [slot for slot in self._slots if not slot.busy]
        if not self._waiting or not free:
            return None
        job = self._waiting.pop(0)
        slot = max(free, key=lambda each: (_reusable(each, job), -each.freed))
        may_reuse = slot.salt == job.cache_salt
        slot.busy, slot.salt, slot.tokens = True, job.cache_salt, job.prompt
        return Assignment(job, slot.index, may_reuse)

    def free(self, index: int) -> None:
        self._freed += 1
        self._slots[index].freed = self._freed
        self._slots[index].busy = False


def _reusable(slot: _Slot, job: Job) -> int:
    """Tokens that the job's prompt shares with what the slot holds, within its salt."""
    if slot.salt != job.cache_salt:
        return 0
    for at, (held, wanted) in enumerate(zip(slot.tokens, job.prompt, strict=False)):
        if held != wanted:
            return at
    return min(len(slot.tokens), len(job.prompt))
