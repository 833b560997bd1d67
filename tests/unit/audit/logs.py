"""Audit logs to be looked at and tampered with."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from evenflow.audit_signing import Signer, new_key, public_keys
from evenflow.audit_verifying import Proof, verify_folder
from services.policy.core.audit import Deed, Reported, Spooled
from services.policy.outbound.audit_chain import AuditChain, said

SIGNER = Signer(new_key())
KEYS = public_keys([SIGNER.public_pem])
NOW_US = 1_795_000_000_000_000


def deed(number: int, **changes: str) -> Deed:
    return Deed(
        actor="spiffe://evenflow.local/service/operator",
        action="key.created",
        subject=f'acme/"{number}"',
        tenant=changes.get("tenant", "acme"),
        facts={"note": 'é,"tenant":"globex"', "at": str(number)},
    )


def reported(*sequences: int) -> list[Reported]:
    return [Reported(each, NOW_US + each, "v1", deed(each)) for each in sequences]


def spooled(*sequences: int, spool: str = "s1") -> Spooled:
    return Spooled(spool, reported(*sequences))


@contextmanager
def opened(
    folder: Path, *, segment_bytes: int = 4000, signer: Signer = SIGNER
) -> Iterator[AuditChain]:
    """Closed without a last checkpoint, as by a crash."""
    clock = count(NOW_US)
    chain = AuditChain(folder, signer, now_unix_us=lambda: next(clock), segment_bytes=segment_bytes)
    try:
        yield chain
    finally:
        chain.close()


def write(chain: AuditChain, first: int, last: int) -> None:
    chain.append([said(deed(each), NOW_US + each) for each in range(first, last + 1)])


def made(folder: Path, *, entries: int = 30) -> None:
    """Several segments, each signed at its end and between."""
    with opened(folder) as chain:
        for first in range(1, entries + 1, 3):
            write(chain, first, first + 2)
            if first % 2 or chain.due():
                chain.checkpoint()
        chain.checkpoint()


def proof(folder: Path) -> Proof:
    return verify_folder(folder, KEYS)
