"""A runtime's children end with it, however it ends."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
WITHIN_S = 10.0

RUNTIME = """
import subprocess, sys
from services.runtime.outbound.vllm_child import Tie

child = subprocess.Popen(["sleep", "1000"], stdout=subprocess.DEVNULL)
tie = Tie([child.pid])
print(child.pid, flush=True)
sys.stdin.readline()
tie.undo()
"""


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda runtime: runtime.kill(), id="killed"),
        pytest.param(lambda runtime: runtime.stdin.close(), id="undone"),
    ],
)
def test_a_child_ends_with_its_runtime(end: Callable[[subprocess.Popen[str]], None]) -> None:
    command = [sys.executable, "-c", RUNTIME]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) as runtime:
        assert runtime.stdout is not None
        child = os.pidfd_open(int(runtime.stdout.readline()))

        end(runtime)

        ended, _, _ = select.select([child], [], [], WITHIN_S)
        if not ended:
            signal.pidfd_send_signal(child, signal.SIGKILL)
        os.close(child)
        assert ended
