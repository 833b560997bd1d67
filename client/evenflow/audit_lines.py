"""The audit log's lines: how an entry is written, and what of it is hashed.

A line is a JSON object without spaces, in ASCII, whose last field is `hash`: SHA-256 over all that
stands before `,"hash":`, byte for byte, in which `before` is the hash of the entry before. So no
parser stands between a line and its proof.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache

FIRST = "0" * 64  # what the first entry has before it
HASH_BYTES = len(',"hash":"') + 64 + len('"}')  # that end every entry
ENTRY_BEGINS = b'{"number":'
REMOVED = "audit.removed"  # an entry that says up to where older ones were removed
THROUGH = "through"  # the fact of it that does

_encode = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """All of an entry but its place in the chain."""

    unix_us: int  # when it was done
    actor: str
    action: str
    subject: str
    outcome: str
    tenant: str = ""
    policy: str = ""  # version of it
    source: str = ""  # of another service's entry: its spool and the sequence there
    facts: Mapping[str, str] = field(default_factory=dict)


def entry_line(number: int, before: str, said: Said) -> tuple[bytes, str]:
    """Without a line end; and its hash."""
    content = _encode(
        {
            "time": time_text(said.unix_us),
            "actor": said.actor,
            "action": said.action,
            "subject": said.subject,
            "tenant": said.tenant,
            "outcome": said.outcome,
            "policy": said.policy,
            "source": said.source,
            "facts": {name: said.facts[name] for name in sorted(said.facts)},
        }
    )
    # The last brace is left for the hash.
    hashed = f'{{"number":{number},"before":"{before}",{content[1:-1]}'.encode("ascii")
    digest = hashlib.sha256(hashed).hexdigest()
    return hashed + f',"hash":"{digest}"}}'.encode("ascii"), digest


def hash_of(line: bytes) -> str:
    """What the line's hash must be. Without a line end."""
    return hashlib.sha256(line[:-HASH_BYTES]).hexdigest()


def said_hash(line: bytes) -> str:
    """What it says that its hash is; anything at all, if it is no entry."""
    return line[-66:-2].decode("ascii", "replace")


def number_of(line: bytes) -> int | None:
    """None: it is no entry."""
    digits = line[len(ENTRY_BEGINS) : len(ENTRY_BEGINS) + 20].partition(b",")[0]
    return int(digits) if line.startswith(ENTRY_BEGINS) and digits.isdigit() else None


def time_text(unix_us: int) -> str:
    """RFC 3339, always as long, so that times sort as texts do."""
    seconds, microseconds = divmod(unix_us, 1_000_000)
    return f"{_second(seconds)}.{microseconds:06}Z"


@lru_cache(maxsize=64)
def _second(unix_s: int) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")
