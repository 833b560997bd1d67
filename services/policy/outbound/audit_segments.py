"""The audit log's files: segments of entries, each named by its first, and the signed checkpoints.

One process writes to them. What was written is cut back to what was synced where a write fails.
"""

import fcntl
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evenflow.audit_verifying import CHECKPOINTS, SEGMENTS

_NAME = "entries-{:020}.jsonl"
_PREFIX, _SUFFIX = SEGMENTS.split("*")


class AuditDamaged(Exception):
    """The log on disk is not as it was written; look at it with `evenflow audit verify`."""


@dataclass(frozen=True, slots=True)
class Segment:
    path: Path
    first: int  # number of its first entry, whether it is there yet or not


def segments_in(folder: Path) -> Sequence[Segment]:
    """In order."""
    found = []
    for path in sorted(folder.glob(SEGMENTS)):
        digits = path.name.removeprefix(_PREFIX).removesuffix(_SUFFIX)
        if not digits.isdigit():
            raise AuditDamaged(f"{path} is no segment's name")
        found.append(Segment(path, int(digits)))
    return found


class AppendFile:
    """Whole lines are appended, durably, or nothing is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.size = os.fstat(self._file).st_size
        self._is_longer = False  # than what was synced
        sync_folder(path.parent)

    def append(self, content: bytes) -> None:
        """Raises OSError; then nothing was appended."""
        self._cut()
        self._is_longer = True
        rest = memoryview(content)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fdatasync(self._file)
        except OSError:
            self._cut()
            raise
        self._is_longer = False
        self.size += len(content)

    def cut_to(self, size: int) -> None:
        os.ftruncate(self._file, size)
        os.fsync(self._file)
        self.size = size

    def close(self) -> None:
        os.close(self._file)

    def _cut(self) -> None:
        """Of what failed; tried again before the next line where that fails, too."""
        if self._is_longer:
            self.cut_to(self.size)
            self._is_longer = False


def new_segment(folder: Path, first: int) -> AppendFile:
    return AppendFile(folder / _NAME.format(first))


def cut_torn_line(path: Path) -> int:
    """The bytes after the last line end, which a crash left, are cut off; how many they were."""
    if not path.exists():
        return 0
    with path.open("rb+") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)
            os.fsync(file.fileno())
    return len(content) - whole


def lock(folder: Path) -> int:
    """Held until the descriptor is closed. Raises AuditDamaged where another process has it."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise AuditDamaged(f"another process writes to the log in {folder}") from error
    return descriptor


def write_whole(path: Path, content: bytes) -> None:
    """Durably, or not at all. Raises OSError."""
    draft = path.with_name(f"{path.name}.draft")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    draft.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checkpoints_of(folder: Path) -> Path:
    return folder / CHECKPOINTS
