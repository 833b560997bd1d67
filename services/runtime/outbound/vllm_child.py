"""Ends vLLM's children when the runtime is gone, even one that had no time to say goodbye.

Else a killed runtime leaves an engine behind that holds its memory and waits for ever. As a script
this is a process of its own: `python vllm_child.py PID...` kills those when its stdin ends. It
imports nothing of ours, so that it stays small.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

_STOP_PATIENCE_S = 5.0


class Tie:
    """Made by the runtime; holds until it is undone or the runtime dies."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._watcher = subprocess.Popen(  # noqa: S603 - this file
            [sys.executable, "-I", "-S", __file__, *map(str, pids)],
            stdin=subprocess.PIPE,
            start_new_session=True,  # a signal to the runtime's group is not for it
        )

    def undo(self) -> None:
        """Kills what of the children is left."""
        assert self._watcher.stdin is not None, "made with a pipe"
        self._watcher.stdin.close()
        self._watcher.wait(_STOP_PATIENCE_S)


def _outlive(pids: Sequence[int]) -> None:
    # Opened now, so that none of them can be another process that got the number later
    children = []
    for pid in pids:
        with suppress(ProcessLookupError):
            children.append(os.pidfd_open(pid))
    sys.stdin.buffer.read()
    for child in children:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(child, signal.SIGKILL)


if __name__ == "__main__":
    _outlive([int(argument) for argument in sys.argv[1:]])
