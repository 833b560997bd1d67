"""Real supervisord and real processes: whoever dies, nobody is left."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[3]
WITHIN_S = 10.0

# Supervises two programs until it is told to stop. One of them won't hear, and has a child.
PARENT = """
import signal, sys, threading
from pathlib import Path
from deploy.local.supervision import Program, supervised

folder = Path(sys.argv[1])
shell = "sleep 1000 & exec sleep 2000"
programs = [
    Program("tame", ("sleep", "1000"), "backing", 1),
    Program("stubborn", ("sh", "-c", "trap '' TERM; " + shell), "edge", 1),
]
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
with supervised(programs, run_folder=folder, log_folder=folder, directory=folder) as supervisor:
    while {state.status for state in supervisor.states().values()} != {"RUNNING"}:
        threading.Event().wait(0.05)
    print("up", flush=True)
    while True:
        supervisor.states()
        threading.Event().wait(0.05)
"""


@contextmanager
def parent(folder: Path) -> Iterator[psutil.Popen]:
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'client'}"}
    process = psutil.Popen(
        [sys.executable, "-c", PARENT, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environ,
        cwd=folder,
    )
    try:
        assert process.stdout.readline() == b"up\n", process.stderr.read()
        yield process
    finally:
        process.stdout.close()
        process.stderr.close()
        for each in living(process):
            each.kill()
        process.wait(WITHIN_S)


def living(process: psutil.Popen) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def supervisord_of(process: psutil.Popen) -> psutil.Process:
    (found,) = process.children()
    return found


@pytest.mark.integration
@pytest.mark.parametrize(
    "strike",
    [
        pytest.param(lambda parent: parent.terminate(), id="told to stop"),
        pytest.param(lambda parent: parent.kill(), id="killed"),
        pytest.param(lambda parent: supervisord_of(parent).kill(), id="supervisord killed"),
    ],
)
def test_nobody_is_left(strike: Callable[[psutil.Popen], None], tmp_path: Path) -> None:
    with parent(tmp_path) as process:
        family = living(process)
        assert len(family) == 5  # ours, supervisord, two programs, a child

        strike(process)
        _, left = psutil.wait_procs(family, timeout=WITHIN_S)

    assert left == []
    assert not list(tmp_path.glob("*.sock"))


@pytest.mark.integration
def test_a_program_that_dies_is_started_again(tmp_path: Path) -> None:
    sleeper = ["sleep", "1000"]
    with parent(tmp_path) as process:
        supervisord = supervisord_of(process)
        before = next(each for each in supervisord.children() if each.cmdline() == sleeper)

        before.kill()

        give_up_at_s = time.monotonic() + WITHIN_S
        while before.is_running() or not _running(supervisord, sleeper):
            assert time.monotonic() < give_up_at_s
            threading.Event().wait(0.05)


def _running(supervisord: psutil.Process, command: list[str]) -> bool:
    return any(each.cmdline() == command for each in supervisord.children())
