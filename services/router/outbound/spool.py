"""What the audit log is to be told, on this router's disk until it is there for good.

Files of entries one after the other, each the bytes of an AppendRequest with that entry alone: put
together they are an AppendRequest with all of them. `write` without a sync: what was written
outlives the process, not the machine. Numbers go on where the process before had ended.
"""

import asyncio
import fcntl
import os
import uuid
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import structlog

from evenflow.policy.v1 import audit_service_pb2 as pb

_SEGMENT_BYTES = 1 << 20  # what is acknowledged is removed so much at a time
_CHUNK_BYTES = 128 << 10  # sent at once, some 400 entries
_TAG = (pb.AppendRequest.ENTRIES_FIELD_NUMBER << 3) | 2  # of a field with a length
_PREFIX, _SUFFIX = "spool-", ".bin"
_log = structlog.get_logger(__name__)


class SpoolFull(OSError):
    """As much is in it as may be; policy has to take some of it first."""


class SpoolTaken(OSError):
    """Another process writes to it; each router needs a folder of its own."""


@dataclass(slots=True)
class _Segment:
    path: Path
    first: int  # number of its first entry
    last: int  # of its last; first - 1: it is empty
    size: int
    cursor: tuple[int, int]  # an entry, and where it ends: who reads on begins there


class Spool:
    """Raises OSError. `most_bytes`: on the disk, as long as policy is away."""

    def __init__(
        self, folder: Path, *, most_bytes: int, segment_bytes: int = _SEGMENT_BYTES
    ) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._lock = _lock(folder)
        self._most_bytes = most_bytes
        self._segment_bytes = min(segment_bytes, max(1, most_bytes // 4))
        self.id = _id(folder)
        self.changed = asyncio.Event()
        self._segments = deque(
            _segment(path) for path in sorted(folder.glob(f"{_PREFIX}*{_SUFFIX}"))
        )
        self._bytes = sum(each.size for each in self._segments)
        self._is_longer = False
        self._file = -1
        self.acknowledged = self._segments[0].first - 1 if self._segments else 0
        self._continue(self._segments[-1].last + 1 if self._segments else 1)

    @property
    def last(self) -> int:
        """Number of the last entry."""
        return self._segments[-1].last

    @property
    def waits(self) -> bool:
        """Whether something is not acknowledged."""
        return self.acknowledged < self.last

    def append(self, content: bytes) -> None:
        """The next entry. Raises OSError; then nothing was appended."""
        segment = self._segments[-1]
        if self._bytes + len(content) > self._most_bytes:
            raise SpoolFull(f"{self._bytes} bytes wait for policy")
        if segment.size >= self._segment_bytes:
            self._continue(segment.last + 1)
            segment = self._segments[-1]
        self._write(content, segment)
        segment.size += len(content)
        segment.last += 1
        self._bytes += len(content)
        self.changed.set()

    def after(self, sequence: int) -> tuple[bytes, int]:
        """Some of the entries after that one, and the number of the last of them."""
        for segment in self._segments:
            if segment.last > sequence:
                return _some(segment, sequence)
        return b"", sequence

    def forget(self, sequence: int) -> None:
        """All up to there is in the log."""
        if sequence > self.last:  # another used our name, or we are older than we were
            _log.error("audit.spool_outdated", last=self.last, policy=sequence)
            self._continue(sequence + 1)
        self.acknowledged = max(self.acknowledged, sequence)
        while len(self._segments) > 1 and self._segments[0].last <= sequence:
            gone = self._segments.popleft()
            self._bytes -= gone.size
            gone.path.unlink(missing_ok=True)

    def close(self) -> None:
        os.close(self._file)
        os.close(self._lock)

    def _continue(self, first: int) -> None:
        """In a file of its own; the last one may be that already, where it is empty."""
        path = self._folder / f"{_PREFIX}{first:020}{_SUFFIX}"
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        if self._file >= 0:
            os.close(self._file)
        self._file = file
        if not self._segments or self._segments[-1].path != path:
            self._segments.append(_Segment(path, first, first - 1, 0, (first - 1, 0)))

    def _write(self, content: bytes, segment: _Segment) -> None:
        self._cut(segment)
        written = os.write(self._file, content)
        if written < len(content):  # the disk took no more
            self._is_longer = True
            self._cut(segment)
            raise SpoolFull("the disk is full")

    def _cut(self, segment: _Segment) -> None:
        if self._is_longer:
            os.ftruncate(self._file, segment.size)
            self._is_longer = False


def _some(segment: _Segment, sequence: int) -> tuple[bytes, int]:
    known, offset = segment.cursor
    if known > sequence:
        known, offset = segment.first - 1, 0
    with segment.path.open("rb") as file:
        while True:
            file.seek(offset)
            content = file.read(min(_CHUNK_BYTES, segment.size - offset))
            ends = _ends(content)
            passed, known, offset = sequence - known, known + len(ends), offset + ends[-1]
            if passed < len(ends):
                segment.cursor = known, offset
                return content[ends[passed - 1] if passed else 0 : ends[-1]], known


def _segment(path: Path) -> _Segment:
    """As a process before this one left it; what it could not write whole is cut off."""
    first = int(path.name.removeprefix(_PREFIX).removesuffix(_SUFFIX))
    content = path.read_bytes()
    ends = list(_ends(content))
    size = ends[-1] if ends else 0
    if size < len(content):
        os.truncate(path, size)
        _log.warning("audit.spool_torn", bytes=len(content) - size)
    return _Segment(path, first, first + len(ends) - 1, size, (first - 1, 0))


def _ends(content: bytes) -> "list[int]":
    """Where each whole entry ends."""
    ends, at = [], 0
    while at < len(content) and content[at] == _TAG:
        length, shift, at = 0, 0, at + 1
        while at < len(content):
            byte = content[at]
            at += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        else:
            break
        at += length
        if at > len(content):
            break
        ends.append(at)
    return ends


def _id(folder: Path) -> str:
    path = folder / "id"
    if path.exists() and (known := path.read_text().strip()):
        return known
    fresh = uuid.uuid4().hex
    draft = path.with_suffix(".draft")
    draft.write_text(fresh)
    draft.replace(path)
    return fresh


def _lock(folder: Path) -> int:
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise SpoolTaken(f"another process writes to the spool in {folder}") from error
    return descriptor
