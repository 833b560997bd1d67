"""What must hold before anything is started, each with a message that says what to do."""

import errno
import fcntl
import os
import platform
import resource
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from deploy.local.settings import HOST

GB = 1_000_000_000
HOME_BYTES = 50_000_000
NEARLY_FULL_BYTES = 100_000
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
OPEN_FILES = 65_536
FEWEST_OPEN_FILES = 1_024


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


def check_disk(folder: Path, needed_bytes: int, *, what: str, elsewhere: str) -> None:
    """`elsewhere` is the variable that names another folder."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise CannotRun(
            f"{what} needs {_size(needed_bytes)} of disk under {folder}, but only "
            f"{_size(free)} are free; {elsewhere} names another folder"
        )


def check_room(home: Path) -> None:
    """For what each run writes: its files, and its logs until they are rotated."""
    check_disk(home, HOME_BYTES, what="each run", elsewhere="EVENFLOW_HOME")


@contextmanager
def full_disk_told(*folders: Path) -> Iterator[None]:
    """Names the folders whose disk is full, when that is why the body fails.

    Raises:
        CannotRun: the body met a full disk.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        named = " or ".join(dict.fromkeys(map(str, _met(error, folders))))
        raise CannotRun(f"no space left on the disk of {named}: {error.strerror}") from error


def raise_open_files() -> int:
    """Takes as many as are allowed, up to OPEN_FILES; returns how many each program may open.

    A stream takes Envoy two, and the usual soft limit of 1,024 would be met first.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if most < FEWEST_OPEN_FILES:
        raise CannotRun(
            f"each program needs {FEWEST_OPEN_FILES:,} open files, but only {most:,} are allowed; "
            "raise the hard limit: ulimit -Hn"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most


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


def _met(error: OSError, folders: Sequence[Path]) -> Sequence[Path]:
    """Which of the folders it was, as far as one can tell: writing itself names no file, and what
    was removed again may have made room."""
    file = Path(error.filename2 or error.filename or "")  # of a link, the second is what was made
    around = [each for each in folders if file.is_relative_to(each)]
    return around[:1] or [each for each in folders if _is_full(each)] or folders


def _is_full(folder: Path) -> bool:
    """Of bytes or of files; some file systems count no files."""
    try:
        disk = os.statvfs(folder)
    except FileNotFoundError:
        return False
    return disk.f_bavail * disk.f_frsize < NEARLY_FULL_BYTES or 0 == disk.f_favail < disk.f_files


def _size(number_bytes: int) -> str:
    return f"{number_bytes / 1e9:.1f} GB" if number_bytes >= GB else f"{number_bytes / 1e6:.0f} MB"


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
