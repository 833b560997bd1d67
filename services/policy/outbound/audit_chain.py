"""The audit log as one thread writes it: the chain's end, its checkpoints, what of each spool is in
it. Opening it proves its last segment.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from evenflow.audit_lines import FIRST, REMOVED, THROUGH, Said, entry_line, number_of
from evenflow.audit_signing import Signer, checkpoint_number, public_keys
from evenflow.audit_verifying import PUBLIC_KEYS, Broken, Chain, Signed, take_all
from services.policy.core.audit import Deed, Spooled
from services.policy.outbound.audit_segments import (
    AppendFile,
    AuditDamaged,
    Segment,
    checkpoints_of,
    cut_torn_line,
    lock,
    new_segment,
    segments_in,
    sync_folder,
    write_whole,
)

CHECKPOINT_EVERY = 10_000  # entries
SEGMENT_BYTES = 64 << 20
_SPOOLS = "spools.json"
_SELF = "policy"  # who did what the log does by itself


class AuditChain:
    """Raises AuditDamaged, OSError. Every method blocks; none may be called while another runs."""

    def __init__(
        self,
        folder: Path,
        signer: Signer,
        *,
        now_unix_us: Callable[[], int],
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder = folder
        self._lock = lock(folder)
        self._signer = signer
        self._now_unix_us = now_unix_us
        self._segment_bytes = segment_bytes
        self.number, self.digest = 0, FIRST
        self._signed = 0  # number of the last checkpoint
        self._spools: dict[str, int] = {}
        self._publish_key()
        cut_torn_line(checkpoints_of(folder))
        cut, self._segment = self._recover()
        self._checkpoints = AppendFile(checkpoints_of(folder))
        if cut:
            self.append([self._own("audit.recovered", cut_bytes=str(cut))])

    def append(self, told: Sequence[Said | Spooled]) -> None:
        """All of it, durably. Raises OSError; then it has none of it."""
        lines, number, digest = [], self.number, self.digest
        spools = dict(self._spools)
        for each in self._flat(told, spools):
            line, digest = entry_line(number + 1, digest, each)
            number += 1
            lines.append(line)
        if not lines:
            return
        self._segment.append(b"\n".join(lines) + b"\n")
        self.number, self.digest, self._spools = number, digest, spools

    def position(self, spool: str) -> int:
        """The last entry of it that is in the log."""
        return self._spools.get(spool, 0)

    @property
    def end(self) -> tuple[Path, int]:
        """The last segment, and how much of it is durable."""
        return self._segment.path, self._segment.size

    def due(self) -> bool:
        """Whether a checkpoint or a new segment is, whatever the time."""
        many = self.number - self._signed >= CHECKPOINT_EVERY
        return bool(self.number) and (many or not self._signed or self._is_full())

    def checkpoint(self) -> None:
        """Signs the end, if it is not, and begins a segment where the last one is full."""
        if self.number > self._signed:
            line = self._signer.checkpoint_line(self.number, self.digest, self._now_unix_us())
            self._checkpoints.append(line + b"\n")
            self._signed = self.number
            self._write_spools()
        if self._is_full():
            segment = new_segment(self.folder, self.number + 1)
            self._segment.close()
            self._segment = segment

    def remove_before(self, unix_us: int) -> None:
        """Whole segments whose last entry was written before; the last segment stays."""
        known = segments_in(self.folder)
        old = []
        for segment, following in pairwise(known):
            if segment.path.stat().st_mtime_ns >= unix_us * 1000:
                break
            old.append((segment, following.first - 1))
        if old:
            through = old[-1][1]
            self.append([self._own(REMOVED, **{THROUGH: str(through)})])
            for segment, _ in old:
                segment.path.unlink()
            sync_folder(self.folder)

    def close(self) -> None:
        self._segment.close()
        self._checkpoints.close()
        os.close(self._lock)

    def _is_full(self) -> bool:
        return self._segment.size >= self._segment_bytes

    def _flat(self, told: Sequence[Said | Spooled], spools: dict[str, int]) -> Iterator[Said]:
        for each in told:
            if isinstance(each, Said):
                yield each
                continue
            for entry in each.entries:
                known = spools.get(each.spool, 0)
                if entry.sequence > known + 1:
                    facts = {"first": str(known + 1), "last": str(entry.sequence - 1)}
                    yield self._own("audit.gap", subject=each.spool, **facts)
                if entry.sequence > known:
                    spools[each.spool] = entry.sequence
                    source = f"{each.spool}:{entry.sequence}"
                    yield said(entry.deed, entry.unix_us, policy=entry.policy, source=source)

    def _own(self, action: str, *, subject: str = "audit", **facts: str) -> Said:
        deed = Deed(actor=_SELF, action=action, subject=subject, facts=facts)
        return said(deed, self._now_unix_us())

    def _publish_key(self) -> None:
        """Beside the log; those of before stay, for what they signed."""
        path = self.folder / PUBLIC_KEYS.replace("*", f"-{self._signer.id}")
        if not path.exists():
            write_whole(path, self._signer.public_pem)

    def _recover(self) -> tuple[int, AppendFile]:
        """How many bytes of a torn line were cut off, and the segment to go on with."""
        signed = Signed(public_keys(each.read_bytes() for each in self.folder.glob(PUBLIC_KEYS)))
        known = segments_in(self.folder)
        cut = cut_torn_line(known[-1].path) if known else 0
        try:
            checkpoints = checkpoints_of(self.folder)
            for line in checkpoints.read_bytes().splitlines() if checkpoints.exists() else ():
                if (checkpoint_number(line) or 0) >= (known[-1].first - 1 if known else 0):
                    signed.add(line, checkpoints.name)  # all others prove older segments
            chain = Chain(signed)
            if known:
                chain.begin_at(known[-1].first, known[-1].path.name)
                take_all(chain, known[-1].path)
            self._signed = chain.end()
        except Broken as error:
            where = f"entry {error.number} in {self.folder / error.segment}"
            raise AuditDamaged(f"{where}: {error.what}: {error.message}") from error
        self.number, self.digest = chain.number, chain.digest.decode()
        self._read_spools(known)
        return cut, AppendFile(known[-1].path) if known else new_segment(self.folder, 1)

    def _write_spools(self) -> None:
        positions = {"number": self.number, "spools": self._spools}
        write_whole(self.folder / _SPOOLS, json.dumps(positions).encode())

    def _read_spools(self, known: Sequence[Segment]) -> None:
        """As they were at the last checkpoint, and what came after it."""
        path, number = self.folder / _SPOOLS, 0
        if path.exists():
            positions = json.loads(path.read_bytes())
            number, self._spools = int(positions["number"]), dict(positions["spools"])
        if number > self.number:
            raise AuditDamaged(f"{self.folder}: entries from {self.number + 1} on are gone")
        for at, segment in enumerate(known, start=1):
            if at == len(known) or known[at].first > number + 1:
                self._add_spools(segment, number)

    def _add_spools(self, segment: Segment, after: int) -> None:
        with segment.path.open("rb") as lines:
            for line in lines:
                number = number_of(line)
                if number is not None and number > after and b'"source":"",' not in line:
                    spool, _, sequence = json.loads(line)["source"].rpartition(":")
                    self._spools[spool] = max(int(sequence), self.position(spool))


def said(deed: Deed, unix_us: int, *, policy: str = "", source: str = "") -> Said:
    return Said(
        unix_us=unix_us,
        actor=deed.actor,
        action=deed.action,
        subject=deed.subject,
        outcome=deed.outcome,
        tenant=deed.tenant,
        policy=policy,
        source=source,
        facts=deed.facts,
    )
