"""The processes of a running mesh: to strike them, and to see them come back."""

import signal
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

from deploy.local.control import SOCKET, Control

LOOK_EVERY_S = 0.02
WITHIN_S = 30.0


class Programs:
    """By the names that supervisord knows: policy, telemetry, runtime-1, router, envoy, ..."""

    def __init__(self, home: Path) -> None:
        self.control = Control(home / "run" / SOCKET)

    def process(self, name: str) -> psutil.Process:
        """Of Envoy the newest, and not the launcher that supervisord knows."""
        process = psutil.Process(self.control.states()[name].pid)
        if name == "envoy":
            return max(process.children(), key=psutil.Process.create_time)
        return process

    def kill(self, *names: str) -> None:
        """As `kill -9` does; supervisord starts them again by itself."""
        self.signal(signal.SIGKILL, names)

    def freeze(self, *names: str) -> None:
        self.signal(signal.SIGSTOP, names)

    def thaw(self, *names: str) -> None:
        self.signal(signal.SIGCONT, names)

    def signal(self, signum: signal.Signals, names: Iterable[str]) -> None:
        for process in [self.process(name) for name in names]:
            process.send_signal(signum)

    def wait_until_settled(self) -> None:
        """Every program runs for so long that its next death counts as no failed start."""
        until(lambda: {each.status for each in self.control.states().values()} == {"RUNNING"})


def until(holds: Callable[[], bool], *, within_s: float = WITHIN_S) -> float:
    """Seconds that it took."""
    began_s = time.monotonic()
    tick = threading.Event()
    while not holds():
        assert time.monotonic() < began_s + within_s, "it did not happen in time"
        tick.wait(LOOK_EVERY_S)
    return time.monotonic() - began_s
