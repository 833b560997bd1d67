"""Runs the load generator as a process of its own, so that its work is nobody else's."""

import json
import os
import subprocess
import sys
from dataclasses import asdict

from benchmarks.load import Order, Outcome
from benchmarks.mesh import ROOT


def send(order: Order) -> Outcome:
    """Returns when every call has ended."""
    process = sending(order)
    said, _ = process.communicate()
    if process.returncode:
        raise RuntimeError("the load generator failed; its own words are above")
    return Outcome(**json.loads(said))


def sending(order: Order) -> "subprocess.Popen[str]":
    """Already under way."""
    return subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-m", "benchmarks.load", json.dumps(asdict(order))],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'client'}"},
        stdout=subprocess.PIPE,
        text=True,
    )
