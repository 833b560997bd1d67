"""Keeps an Envoy running and, at SIGHUP, has a new one take over its doors without closing them.

Usage: python -m deploy.envoy.hand_over SOCKETS PORT[,PORT...] ENVOY [ARGUMENT...]

It does for Envoy's hot restart what Envoy's own hot-restarter.py does: the next one gets the listen
sockets from the one before it and then tells it to drain. It differs in three things. The old one
ends when its last client has left, not after a fixed time. A new one that dies before it serves
costs nothing: the old one serves on. While an old one still has clients, the next SIGHUP waits.

SIGTERM ends all. When the Envoy that serves dies, so do we, for a supervisor to start us anew.
"""

import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from deploy.envoy.admin import running

ADMIN = "envoy-admin.sock"  # in SOCKETS; the newest Envoy has it
LOOK_EVERY_S = 0.5
LOOKS_WITHOUT_CLIENTS = 2  # so that the last access log is out, which waits for 0.1 s
SERVES_WITHIN_S = 60.0  # a new one, from its start; later it is given up
# After it the new one would end the old one by itself, and no deadline is longer than a day.
NEVER_S = 25 * 3600
# Ten times it must fit into 31 bits, for Envoy.
MOST_BASE_IDS = 200_000_000
_STOPPING = (signal.SIGTERM, signal.SIGINT)
_HEARD = (signal.SIGHUP, signal.SIGCHLD, *_STOPPING)
# Envoy's SharedMemory: two integers and two mutexes, then the flag of one that is starting. Envoy
# clears it when it serves, so after one that died before that nobody could start.
_STARTING_AT = 96
_SLOTS = 3  # socket names are used again by every third Envoy


@dataclass(frozen=True, slots=True)
class Family:
    """What the Envoys that follow each other share."""

    command: Sequence[str]
    sockets: Path  # folder
    base_id: int  # keeps the shared memory of two families apart

    def start(self, epoch: int) -> int:
        """Returns the process id. Envoy ends when we do: it asks for a parent's death signal."""
        arguments = [
            *self.command,
            *("--restart-epoch", str(epoch), "--base-id", str(self.base_id)),
            *("--socket-path", str(self.sockets / "envoy")),
            *("--parent-shutdown-time-s", str(NEVER_S), "--drain-strategy", "immediate"),
            # Asking an old one that has ended would hold up the new one's main thread.
            "--skip-hot-restart-parent-stats",
        ]
        return os.posix_spawn(arguments[0], arguments, os.environ, setsigmask=())

    def ear(self, epoch: int) -> Path:
        """Where this Envoy hears from the one after it."""
        return self.sockets / f"envoy_parent_{self.base_id * 10 + epoch % _SLOTS}"

    def forget_start(self) -> None:
        with self._shared_memory.open("r+b") as memory:
            memory.seek(_STARTING_AT)
            memory.write(bytes(8))

    def clear(self) -> None:
        self._shared_memory.unlink(missing_ok=True)

    @property
    def _shared_memory(self) -> Path:
        return Path(f"/dev/shm/envoy_shared_memory_{self.base_id * 10}")  # noqa: S108 - Envoy's choice


class Doors:
    """One Envoy that serves; for a while, one that comes or one that goes."""

    def __init__(self, family: Family, ports: frozenset[int]) -> None:
        self._family = family
        self._ports = ports
        self._epoch = 0
        self._serving = family.start(0)
        self._coming: int | None = None
        self._give_up_at_s = 0.0
        self._going: int | None = None
        self._looks_without_clients = 0
        self._ear: socket.socket | None = None
        self._asked = False

    def hand_over(self) -> None:
        """As soon as no other hand-over is under way."""
        self._asked = True

    def look(self) -> bool:
        """Goes on with what is under way; false when the Envoy that serves is dead."""
        if _ended(self._serving):
            return False
        if self._coming is not None:
            self._see_it_come(self._coming)
        elif self._going is not None:
            self._see_it_go(self._going)
        elif self._asked:
            self._asked = False
            self._give_up_at_s = time.monotonic() + SERVES_WITHIN_S
            self._coming = self._family.start(self._epoch + 1)
            _say(f"Envoy {self._epoch + 1} starts")
        return True

    def stop(self, signum: signal.Signals) -> None:
        self._family.clear()
        for process in (self._coming, self._serving, self._going):
            if process is not None and not _ended(process):
                os.kill(process, signum)
                os.waitpid(process, 0)

    def _see_it_come(self, process: int) -> None:
        seen = running(self._family.sockets / ADMIN)
        if _ended(process):
            self._family.forget_start()
            self._coming = None
            _say(f"Envoy {self._epoch + 1} died before it served; Envoy {self._epoch} serves on")
        elif seen and seen.live and seen.epoch == self._epoch + 1:
            self._going, self._serving, self._coming = self._serving, process, None
            self._epoch += 1
            _say(f"Envoy {self._epoch} serves; the one before it finishes")
        elif time.monotonic() > self._give_up_at_s:
            os.kill(process, signal.SIGKILL)

    def _see_it_go(self, process: int) -> None:
        if _ended(process):
            self._stand_in()
            self._going = None
            _say(f"Envoy {self._epoch - 1} has ended")
        elif _has_clients(process, self._ports):
            self._looks_without_clients = 0
        else:
            self._looks_without_clients += 1
            if self._looks_without_clients == LOOKS_WITHOUT_CLIENTS:
                os.kill(process, signal.SIGTERM)

    def _stand_in(self) -> None:
        """Hears what the Envoy that serves still has to say to the one that ended.

        It will tell it to end, and dies when nobody is there. It waits for no answer.
        """
        if self._ear is not None:
            self._ear.close()
        path = self._family.ear(self._epoch - 1)
        path.unlink(missing_ok=True)
        self._ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._ear.bind(str(path))


def _ended(process: int) -> bool:
    """Whether our child is dead."""
    try:
        return os.waitpid(process, os.WNOHANG) != (0, 0)
    except ChildProcessError:
        return True  # and seen to be so before


def _has_clients(process: int, ports: frozenset[int]) -> bool:
    try:
        connections = psutil.Process(process).net_connections("tcp")
    except psutil.NoSuchProcess:
        return False
    return any(
        each.laddr and each.laddr.port in ports and each.status != psutil.CONN_LISTEN
        for each in connections
    )


def _say(what: str) -> None:
    print(f"hand_over: {what}", flush=True)


def main(arguments: list[str]) -> int:
    sockets, ports, *command = arguments
    signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
    family = Family(command, Path(sockets), secrets.randbelow(MOST_BASE_IDS))
    doors = Doors(family, frozenset(int(each) for each in ports.split(",")))
    while doors.look():
        heard = signal.sigtimedwait(_HEARD, LOOK_EVERY_S)
        if heard is None:
            continue
        if heard.si_signo in _STOPPING:
            doors.stop(signal.SIGTERM)
            return 0
        if heard.si_signo == signal.SIGHUP:
            doors.hand_over()
    doors.stop(signal.SIGKILL)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
