"""What the audit log costs: bytes of an entry, the time to write and to verify many, and the
processor time that writing a decision down adds to the router's Check.

The entries are those of one request each, as routers tell them, with names of a usual length. The
log is written as policy writes it, a batch and a sync at a time, without the network.
"""

import argparse
import statistics
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from benchmarks.crowd import measured
from benchmarks.results import Goal, line
from evenflow.audit_signing import Signer, new_key, public_keys
from evenflow.audit_verifying import verify_folder
from evenflow.policy.v1 import audit_service_pb2 as pb
from services.policy.core.audit import Spooled
from services.policy.inbound.auditing import spooled_of
from services.policy.outbound.audit_chain import AuditChain
from services.router.inbound.auditing import Auditing
from services.router.outbound.spool import Spool

GOALS = (Goal("decision_us", 25.0),)
ENTRIES = 1_000_000
BATCH = 400  # entries that a router sends at once
ENDPOINTS, TENANTS, ROUNDS, REPEATS = 10, 10, 3000, 5

Figures = dict[str, float]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks audit")
    parser.add_argument("--entries", type=int, default=ENTRIES)
    parser.add_argument("--folder", type=Path, help="where there is room for 750 bytes an entry")
    asked = parser.parse_args(arguments)
    figures, baseline = _decisions()
    with tempfile.TemporaryDirectory(prefix="audit-", dir=asked.folder) as folder:
        figures |= _log(Path(folder) / "audit", asked.entries)
    for goal in GOALS:
        print(goal.said(figures[goal.figure]))
    print(line("audit", figures=figures, baseline=baseline, goals=GOALS), flush=True)
    return 0


def _decisions() -> tuple[Figures, Figures]:
    """Medians of medians, taken in turns, since the machine has other work."""
    without, within = [], []
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory(prefix="audit-") as folder:
            spool = Spool(Path(folder), most_bytes=1 << 30)
            audit = Auditing(
                spool, now_unix_ns=time.time_ns, version=lambda: "ab" * 32, stale_after_s=1e9
            )
            within.append(_straight_us(audit))
            spool.close()
        without.append(_straight_us(None))
    before_us, after_us = statistics.median(without), statistics.median(within)
    print(f"a decision: {before_us:.0f} us, written down {after_us:.0f} us", flush=True)
    return {"straight_us": after_us, "decision_us": after_us - before_us}, {
        "straight_us": before_us
    }


def _straight_us(audit: Auditing | None) -> float:
    costs = measured(ENDPOINTS, TENANTS, rounds=ROUNDS, audit=audit)
    return statistics.median(costs.straight)


def _log(folder: Path, entries: int) -> Figures:
    signer = Signer(new_key())
    chain = AuditChain(folder, signer, now_unix_us=lambda: time.time_ns() // 1000)
    batch = _batch()
    began_s = time.perf_counter()
    for first in range(1, entries + 1, BATCH):
        chain.append([_numbered(batch, first, min(BATCH, entries + 1 - first))])
        if chain.due():
            chain.checkpoint()
    chain.checkpoint()
    chain.close()
    wrote_s = time.perf_counter() - began_s
    size = sum(each.stat().st_size for each in folder.iterdir())
    began_s = time.perf_counter()
    proof = verify_folder(folder, public_keys([signer.public_pem]))
    verified_s = time.perf_counter() - began_s
    print(f"{proof.last} entries: {size / proof.last:.0f} bytes each, {verified_s:.1f} s to verify")
    return {
        "entries": proof.last,
        "bytes_per_entry": size / proof.last,
        "write_us_per_entry": wrote_s / proof.last * 1e6,
        "verify_s": verified_s,
        "verify_us_per_entry": verified_s / proof.last * 1e6,
    }


def _batch() -> Sequence[pb.SpooledEntry]:
    request = pb.AuditedRequest(
        workload="web",
        method="/evenflow.openai.v1.ChatService/StreamChatCompletion",
        model="llama-3.1-8b-instruct",
        answering_model="llama-3.1-8b-instruct",
        workload_class="interactive",
        prompt_tokens=512,
        prompt_estimated=True,
        asked_output_tokens=256,
        output_tokens=256,
        trace_id="ab" * 16,
    )
    return [
        pb.SpooledEntry(
            actor="spiffe://evenflow.local/tenant/acme/web",
            action="request.admitted",
            subject=str(uuid.uuid4()),
            tenant="acme",
            outcome="done",
            policy_version="cd" * 32,
            request=request,
        )
        for _ in range(BATCH)
    ]


def _numbered(batch: Sequence[pb.SpooledEntry], first: int, number: int) -> Spooled:
    now_ns = time.time_ns()
    for at, each in enumerate(batch[:number]):
        each.sequence = first + at
        each.at.seconds, each.at.nanos = divmod(now_ns, 1_000_000_000)
    return spooled_of(pb.AppendRequest(spool="1" * 32, entries=batch[:number]))
