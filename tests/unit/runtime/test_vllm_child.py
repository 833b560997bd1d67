"""A child that watches its parent is gone when the parent is killed."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
WITHIN_S = 10.0

# As vLLM's child does it: a spawned process watches, the one that spawned it only lives.
CHILD = """
import threading
from services.runtime.outbound.vllm_child import end_with_parent

end_with_parent()
print("watching", flush=True)
threading.Event().wait()
"""
PARENT = """
import subprocess, sys

child = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
print(child.pid, flush=True)
child.wait()
"""


def test_a_child_ends_with_a_killed_parent() -> None:
    command = [sys.executable, "-c", PARENT, CHILD]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        assert parent.stdout is not None
        lines = {parent.stdout.readline().strip(), parent.stdout.readline().strip()}
        child = os.pidfd_open(int((lines - {"watching"}).pop()))

        parent.send_signal(signal.SIGKILL)

        ended, _, _ = select.select([child], [], [], WITHIN_S)
        if not ended:
            signal.pidfd_send_signal(child, signal.SIGKILL)
        os.close(child)
        assert ended
