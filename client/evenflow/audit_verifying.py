"""Proves an audit log, or an export of it, and names the first entry that is not as it was written.

Reads each line once. An entry is proven by a signed checkpoint at it or after it, since each holds
the hash of the one before. What is after the last checkpoint is in a chain that nobody signed yet.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from evenflow.audit_lines import (
    ENTRY_BEGINS,
    FIRST,
    REMOVED,
    THROUGH,
    hash_of,
    number_of,
    said_hash,
)
from evenflow.audit_signing import (
    CHECKPOINT_BEGINS,
    Checkpoint,
    InvalidCheckpoint,
    checked,
    checkpoint_number,
)

SEGMENTS = "entries-*.jsonl"
CHECKPOINTS = "checkpoints.jsonl"
PUBLIC_KEYS = "public-key*.pem"

_TAIL = b',"hash":"'
_REMOVAL = f'"action":"{REMOVED}"'.encode()
_THROUGH = f'"{THROUGH}":"'.encode()


class Broken(Exception):
    """The log is not as it was written. `number`: the first entry of which that is known."""

    def __init__(self, number: int, what: str, message: str, segment: str = "") -> None:
        super().__init__(message)
        self.number = number
        self.what = what  # form, hash, order, missing, chain, checkpoint, key, torn
        self.message = message
        self.segment = segment  # name of the file


@dataclass(frozen=True, slots=True)
class Proof:
    first: int  # entries from here; 0: there are none
    last: int  # to here
    digest: str  # of the last
    signed_to: int  # up to here by a checkpoint
    signed_time: str
    checkpoints: int


Keys = Mapping[str, Ed25519PublicKey]


def verify_folder(folder: Path, keys: Keys) -> Proof:
    """Of a log, also while it is being written. Raises Broken, OSError."""
    signed = Signed(keys)
    path = folder / CHECKPOINTS
    if path.exists():  # first: entries that come meanwhile are after all of them
        for line in path.read_bytes().splitlines():
            signed.add(line, CHECKPOINTS)
    segments = sorted(folder.glob(SEGMENTS))
    chain = Chain(signed)
    if segments:
        chain.begin_at(first_in(segments[0]), segments[0].name)
    for at, segment in enumerate(segments, start=1):
        chain.begin(segment.name)
        take_all(chain, segment)
        if at < len(segments):
            chain.ends_before(first_in(segments[at]))
    return chain.proof(whole=True)


def verify_file(file: Path, keys: Keys) -> Proof:
    """Of an export, which holds checkpoints among its entries. Raises Broken, OSError."""
    signed = Signed(keys)
    with file.open("rb") as lines:
        for line in lines:
            if not line.startswith(ENTRY_BEGINS) and line.startswith(CHECKPOINT_BEGINS):
                signed.add(line.rstrip(b"\n"), file.name)
    chain = Chain(signed, begins_anywhere=True)
    chain.begin(file.name)
    take_all(chain, file)
    return chain.proof(whole=False)


def first_in(segment: Path) -> int:
    """Number of its first entry, by its name. Raises Broken."""
    digits = segment.stem.rpartition("-")[2]
    if not digits.isdigit():
        raise Broken(0, "form", "no segment is called so", segment.name)
    return int(digits)


def take_all(chain: "Chain", file: Path) -> None:
    with file.open("rb") as lines:
        for line in lines:
            if not chain.takes(line):
                if line.startswith(CHECKPOINT_BEGINS) and line.endswith(b"\n"):
                    continue  # looked at before
                chain.explain(line, lines)


class Signed:
    """The checkpoints, by number."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._known: dict[int, Checkpoint] = {}

    def add(self, line: bytes, name: str) -> None:
        try:
            checkpoint = checked(line, self._keys)
        except InvalidCheckpoint as error:
            number = checkpoint_number(line) or 0
            what = "key" if "trusted" in str(error) else "checkpoint"
            raise Broken(number, what, f"the checkpoint of it: {error}", name) from error
        other = self._known.setdefault(checkpoint.number, checkpoint)
        if other.hash != checkpoint.hash:
            raise Broken(checkpoint.number, "checkpoint", "two checkpoints differ", name)

    def at(self, number: int) -> Checkpoint | None:
        return self._known.get(number)

    @property
    def numbers(self) -> Sequence[int]:
        return sorted(self._known)


@dataclass(slots=True)
class Chain:
    signed: Signed
    begins_anywhere: bool = False  # older entries may be missing: nobody said that they are there
    segment: str = ""
    number: int = 0  # of the last that was taken; 0: none
    digest: bytes = FIRST.encode()
    first: int = 0
    removed_through: int = 0
    _signed_numbers: frozenset[int] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        self._signed_numbers = frozenset(self.signed.numbers)

    def begin(self, segment: str) -> None:
        self.segment = segment

    def begin_at(self, first: int, segment: str) -> None:
        """With the segment whose first entry that is, or will be. Raises Broken."""
        self.begin(segment)
        if first > 1:
            anchor = self.signed.at(first - 1)
            if anchor is None:
                raise Broken(first - 1, "checkpoint", "its checkpoint is missing", segment)
            self.number, self.digest, self.first = first - 1, anchor.hash.encode(), first

    def end(self) -> int:
        """The last number that was signed. Raises Broken where entries up to it are missing."""
        last_signed = max(self.signed.numbers, default=0)
        if last_signed > self.number:
            message = f"entries up to {last_signed} were signed"
            raise Broken(self.number + 1, "missing", message, self.segment)
        return last_signed

    def takes(self, line: bytes) -> bool:
        """Whether it is the next one."""
        digest = hashlib.sha256(line[:-76]).hexdigest().encode()
        if self.begins_anywhere and not self.first:
            self._anchor(line)
        if not (
            line.startswith(b'{"number":%d,"before":"%b",' % (self.number + 1, self.digest))
            and line[-76:-67] == _TAIL
            and line[-67:-3] == digest
            and line[-3:] == b'"}\n'
        ):
            return False
        self.number += 1
        self.digest = digest
        if not self.first:
            self.first = self.number
        if self.number in self._signed_numbers:
            self._must_match()
        if self.first > 1 and _REMOVAL in line:
            through = line.rpartition(_THROUGH)[2].partition(b'"')[0]
            self.removed_through = max(self.removed_through, int(through or b"0"))
        return True

    def _anchor(self, line: bytes) -> None:
        """What the first line says that it follows, where older ones are gone."""
        number = number_of(line)
        if number is not None and number > 1:
            before = line.partition(b'"before":"')[2][:64]
            anchor = self.signed.at(number - 1)
            self.number, self.digest = number - 1, anchor.hash.encode() if anchor else before

    def _must_match(self) -> None:
        checkpoint = self.signed.at(self.number)
        if checkpoint is None or checkpoint.hash.encode() != self.digest:
            message = "it is not the entry that was signed"
            raise Broken(self.number, "checkpoint", message, self.segment)

    def ends_before(self, following: int) -> None:
        """Raises Broken where the segment is not whole, or its checkpoint was removed."""
        if self.number < following - 1:
            message = f"the segment does not go on to {following - 1}"
            raise Broken(self.number + 1, "missing", message, self.segment)
        if self.number not in self._signed_numbers:
            message = "it ends a segment, and its checkpoint is missing"
            raise Broken(self.number, "checkpoint", message, self.segment)

    def explain(self, line: bytes, rest: Iterator[bytes]) -> None:
        """Raises Broken for a line that is not the next one."""
        expected, number = self.number + 1, number_of(line)
        broken = self._broken(line.removesuffix(b"\n"))
        if not line.endswith(b"\n"):
            broken = "torn", "the line has no end"
        elif broken is None and number is not None and number != expected:
            later = number < expected or any(number_of(each) == expected for each in rest)
            said = f"entry {number} is in its place"
            broken = ("order", said) if later else ("missing", said)
        what, message = broken or ("chain", f"it does not follow entry {self.number}")
        raise Broken(expected, what, message, self.segment)

    def _broken(self, line: bytes) -> tuple[str, str] | None:
        if number_of(line) is None or line[-75:-66] != _TAIL or not line.endswith(b'"}'):
            return "form", "the line is no entry"
        if hash_of(line) != said_hash(line):
            return "hash", "its hash is of another content"
        return None

    def proof(self, *, whole: bool) -> Proof:
        last_signed = self.end()
        if self.number and last_signed < self.first:
            raise Broken(self.first, "checkpoint", "no checkpoint proves it", self.segment)
        if whole and self.first > 1 and self.removed_through < self.first - 1:
            message = "older entries are gone, and no entry says that they were removed"
            raise Broken(self.first - 1, "missing", message, self.segment)
        checkpoint = self.signed.at(last_signed)
        return Proof(
            first=self.first,
            last=self.number,
            digest=self.digest.decode(),
            signed_to=last_signed,
            signed_time=checkpoint.time if checkpoint else "",
            checkpoints=len(self.signed.numbers),
        )
