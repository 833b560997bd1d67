"""What the ledger says of a budget, and what runtimes' own logs say was truly used."""

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from benchmarks.mesh import Mesh
from evenflow.connection import Connection
from evenflow.home import service_folder, service_name
from evenflow.policy.v1 import ledger_service_pb2 as pb
from evenflow.policy.v1.ledger_service_pb2_grpc import LedgerServiceStub

LOOK_EVERY_S = 0.1
CALL_S = 5.0


@dataclass(frozen=True, slots=True)
class Books:
    """Of one budget. In its unit."""

    at_s: float
    spent: int
    held: int


def read(mesh: Mesh, tenant: str) -> Books | None:
    """None: policy is away."""
    folder = service_folder(mesh.home, "operator")
    address = f"127.0.0.1:{mesh.ports.policy}"
    try:
        with Connection(address, folder, service_name("policy")).blocking_channel() as channel:
            said: pb.ListBudgetsResponse = LedgerServiceStub(channel).ListBudgets(
                pb.ListBudgetsRequest(tenant=tenant), timeout=CALL_S
            )
    except grpc.RpcError:
        return None
    (state,) = said.budgets
    return Books(time.monotonic(), state.spent, state.held)


@contextmanager
def followed(mesh: Mesh, tenant: str) -> Iterator[list[Books]]:
    """What they said while the body lasted."""
    seen: list[Books] = []
    over = threading.Event()

    def follow() -> None:
        while not over.wait(LOOK_EVERY_S):
            now = read(mesh, tenant)
            if now is not None:
                seen.append(now)

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def settled(mesh: Mesh, tenant: str, *, within_s: float) -> Books:
    """Once nobody holds anything any more; else as they are after all that time."""
    tick = threading.Event()
    give_up_at_s = time.monotonic() + within_s
    while True:
        now = read(mesh, tenant)
        if now is not None and (not now.held or time.monotonic() > give_up_at_s):
            return now
        tick.wait(LOOK_EVERY_S)


def truly_used_tokens(logs: Path, tenant: str) -> int:
    """By the lines that runtimes have written of their calls, each with what its engine made."""
    return sum(
        line.get("prompt_tokens", 0) + line.get("output_tokens", 0)
        for line in _lines(sorted(logs.glob("runtime-*.log*")))
        if line.get("event") == "rpc.ended" and line.get("tenant") == tenant
    )


def _lines(files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    for file in files:
        for each in file.read_text().splitlines():
            if each.startswith("{"):
                yield json.loads(each)
