"""Runs the load generator as a process of its own, so that its work is nobody else's."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict

from benchmarks.load import Order, Outcome
from benchmarks.mesh import ROOT


def send(order: Order) -> Outcome:
    """Returns when every call has ended."""
    return Outcome(**json.loads(_said(sending(order))))


def sending(order: Order) -> "subprocess.Popen[str]":
    """Already under way."""
    return _started("benchmarks.load", asdict(order))


def run_generator(module: str, order: Mapping[str, object]) -> str:
    """What it said in the end."""
    return _said(_started(module, order))


def _said(process: "subprocess.Popen[str]") -> str:
    said, _ = process.communicate()
    if process.returncode:
        raise RuntimeError("the load generator failed; its own words are above")
    return said


def _started(module: str, order: Mapping[str, object]) -> "subprocess.Popen[str]":
    return subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-m", module, json.dumps(order)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'client'}"},
        stdout=subprocess.PIPE,
        text=True,
    )
