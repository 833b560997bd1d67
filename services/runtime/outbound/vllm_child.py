"""vLLM's child process ends with the runtime, even with one that had no time to say goodbye.

Else a killed runtime leaves an engine behind that holds its memory and waits for ever.
"""

import os
import select
import signal
import threading


def end_with_parent() -> None:
    parent = os.pidfd_open(os.getppid())
    threading.Thread(target=_outlive, args=(parent,), name="parent-watch", daemon=True).start()


def _outlive(parent: int) -> None:
    select.select([parent], [], [])  # readable once it has ended
    os.kill(os.getpid(), signal.SIGKILL)
