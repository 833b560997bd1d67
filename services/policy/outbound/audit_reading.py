"""Reads the audit log while it is written: its lines as they are, and the decisions in it."""

import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from evenflow.audit_lines import number_of, time_text
from evenflow.audit_signing import CHECKPOINT_BEGINS, checkpoint_number
from services.policy.core.audit import Wanted
from services.policy.outbound.audit_segments import Segment, checkpoints_of, segments_in

DECISIONS = "request."  # what the actions of requests begin with
_ENDED = "request.ended"
_BATCH_LINES = 200
_TIME = b'"time":"'
_TIME_BYTES = len(time_text(0))
_ACTION = b',"action":"'


@dataclass(frozen=True, slots=True)
class Written:
    """What there is to be read: a log's folder, and the end of its last segment."""

    folder: Path
    last: Path
    size: int


def batches(written: Written, wanted: Wanted) -> Iterator[Sequence[bytes]]:
    """Of lines, checkpoints among the entries. Blocks. Raises OSError."""
    lines = _matching(written, wanted)
    if wanted.last:
        lines = iter(_last(lines, wanted.last))
    while batch := list(islice(lines, _BATCH_LINES)):
        yield batch


def decisions_since(written: Written, unix_s: float) -> Iterator[Mapping[str, str]]:
    """What was decided about requests from then on, with its facts; oldest first. Blocks.

    Names: `time` (RFC 3339), `actor`, `action`, `subject` (the request's id), `tenant`, `outcome`,
    `policy`, and of the facts those in docs/audit.md.
    """
    wanted = Wanted(since_unix_us=round(unix_s * 1e6), action=DECISIONS)
    for line in _matching(written, wanted):
        if not line.startswith(CHECKPOINT_BEGINS):
            entry = json.loads(line)
            if entry["action"] != _ENDED:
                facts: dict[str, str] = entry.pop("facts")
                yield {**facts, **{name: str(value) for name, value in entry.items()}}


def _matching(written: Written, wanted: Wanted) -> Iterator[bytes]:
    begun = wanted.since_unix_us is None
    since = time_text(wanted.since_unix_us).encode() if wanted.since_unix_us is not None else b""
    checkpoints = _checkpoints(written.folder)
    for number, line in _entries(written, wanted):
        begun = begun or _time(line) >= since
        if begun:
            while checkpoints and checkpoints[0][0] < number:
                checkpoints.popleft()
            if _is_wanted(line, wanted):
                yield line
            if checkpoints and checkpoints[0][0] == number:
                yield checkpoints.popleft()[1]


def _entries(written: Written, wanted: Wanted) -> Iterator[tuple[int, bytes]]:
    known = [each for each in segments_in(written.folder) if each.path <= written.last]
    for at, segment in enumerate(known):
        following = known[at + 1] if at + 1 < len(known) else None
        if following is not None and _is_before(following, wanted):
            continue
        for line in _lines(segment, written):
            number = number_of(line) or 0
            if number >= wanted.from_number:
                yield number, line


def _is_before(following: Segment, wanted: Wanted) -> bool:
    """Whether all of the segment before that one is too early to be wanted."""
    return following.first <= wanted.from_number


def _lines(segment: Segment, written: Written) -> Iterator[bytes]:
    left = written.size if segment.path == written.last else None
    with segment.path.open("rb") as file:
        for line in file:
            if left is not None:
                left -= len(line)
                if left < 0:
                    return
            yield line.removesuffix(b"\n")


def _checkpoints(folder: Path) -> deque[tuple[int, bytes]]:
    lines = checkpoints_of(folder).read_bytes().splitlines()
    return deque((checkpoint_number(line) or 0, line) for line in lines)


def _last(lines: Iterator[bytes], number: int) -> Sequence[bytes]:
    """The last entries, and the checkpoints among them."""
    entries = (line for line in lines if not line.startswith(CHECKPOINT_BEGINS))
    return deque(entries, maxlen=number)


def _is_wanted(line: bytes, wanted: Wanted) -> bool:
    """By the first field of each name, which is the entry's own: quotes in values are escaped."""
    if wanted.tenant:
        at = line.find(b',"tenant":"')
        if not line.startswith(b'%b",' % wanted.tenant.encode(), at + len(b',"tenant":"')):
            return False
    if wanted.action:
        action = wanted.action if wanted.action.endswith(".") else f'{wanted.action}"'
        return line.startswith(action.encode(), line.find(_ACTION) + len(_ACTION))
    return True


def _time(line: bytes) -> bytes:
    at = line.find(_TIME) + len(_TIME)
    return line[at : at + _TIME_BYTES]
