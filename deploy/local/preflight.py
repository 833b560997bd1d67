"""What must hold before anything is started, each with a message that says what to do."""

import errno
import fcntl
import os
import platform
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from deploy.local.settings import HOST


class CannotRun(Exception):
    """The mesh can't be started here and now; the message says what to do."""


def check_platform() -> None:
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise CannotRun(f"runs on Linux on x86_64, got {platform.system()} on {platform.machine()}")


def check_ports(ports: Mapping[str, int]) -> None:
    """All at once, so that one more try is enough."""
    obstacles = {variable: _obstacle(number) for variable, number in ports.items()}
    lines = [
        f"port {ports[variable]} {obstacle}; set {variable} to another"
        for variable, obstacle in obstacles.items()
        if obstacle
    ]
    if lines:
        raise CannotRun("\n".join(lines))


def check_memory(needed_bytes: int, *, what: str) -> None:
    free = psutil.virtual_memory().available
    if free < needed_bytes:
        raise CannotRun(
            f"{what} needs {needed_bytes / 1e9:.1f} GB of memory, but only {free / 1e9:.1f} GB are "
            "free; fewer runtimes need less: EVENFLOW_RUNTIME_PORTS=9101"
        )


def check_disk(folder: Path, needed_bytes: int, *, what: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise CannotRun(
            f"{what} needs {needed_bytes / 1e9:.1f} GB of disk under {folder}, but only "
            f"{free / 1e9:.1f} GB are free; EVENFLOW_DOWNLOADS names another folder"
        )


@contextmanager
def only_one(home: Path) -> Iterator[None]:
    """Holds the home folder for this process.

    Raises:
        CannotRun: another process holds it.
    """
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (home / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise CannotRun(
                f"already running in {home} (pid {lock.read().strip() or 'unknown'}); "
                "EVENFLOW_HOME and the ports can be set for a second mesh"
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def _obstacle(number: int) -> str | None:
    """Why this port can't be listened on; None if it can."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # TIME_WAIT is no obstacle
        try:
            probe.bind((HOST, number))
        except PermissionError:
            return "is for root only"
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return f"is in use{_by_whom(number)}"
    return None


def _by_whom(number: int) -> str:
    """Names the process, as far as this user may know."""
    try:
        listeners = [each for each in psutil.net_connections("tcp") if each.status == "LISTEN"]
        for each in listeners:
            if each.laddr and each.laddr.port == number and each.pid:
                return f" by {psutil.Process(each.pid).name()} (pid {each.pid})"
    except (psutil.AccessDenied, psutil.NoSuchProcess):
        return ""
    return ""
