"""Keeps the mesh's processes under supervisord, and ends them all, whatever happens.

Three ties hold: supervisord stops when we die, each program stops when supervisord dies (see
tied.py), and whatever outlives its parent becomes our child, to be killed when we end.
"""

import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from deploy.local.control import SOCKET, Control, NoSupervisor, ProgramState
from deploy.local.tied import adopt_orphans

TIED = Path(__file__).with_name("tied.py")
GROUPS = ("backing", "serving", "edge")  # started in this order, stopped in the other
STOP_WITHIN_S = 8.0  # all groups, one after the other; after it, everything is killed
ORPHANS_WITHIN_S = 4.0
SETTLED_S = 5  # a program that lives this long has started; before it, a death counts as a try
TRIES = 3
LOG_BYTES = 10_000_000
LOGS_KEPT = 3


class SupervisorDied(Exception):
    """supervisord ended by itself; its log says why."""


@dataclass(frozen=True, slots=True)
class Program:
    name: str
    command: Sequence[str]
    group: str  # of GROUPS
    stop_within_s: int
    environ: Mapping[str, str] = field(default_factory=dict)  # added to ours


class Supervisor:
    def __init__(
        self, process: subprocess.Popen[bytes], socket: Path, others: AbstractSet[psutil.Process]
    ) -> None:
        self._process = process
        self._others = others  # children of ours that are not the mesh's
        self._control = Control(socket)

    def states(self) -> dict[str, ProgramState]:
        """By program; empty while supervisord itself is starting.

        Raises:
            SupervisorDied: it has ended.
        """
        if self._process.poll() is not None:
            raise SupervisorDied(f"supervisord ended with status {self._process.returncode}")
        try:
            return self._control.states()
        except NoSupervisor:
            return {}  # not listening yet, or just ending: the next look tells

    def stop(self) -> None:
        """Returns when no process is left."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        else:  # the programs have been told, by their tie to it
            psutil.wait_procs(_descendants() - self._others, timeout=ORPHANS_WITHIN_S)
        left = _descendants() - self._others
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=1.0)


@contextmanager
def supervised(
    programs: Sequence[Program], *, run_folder: Path, log_folder: Path, directory: Path
) -> Iterator[Supervisor]:
    """Starts the programs; when the body is left, nothing of them is.

    Children that the caller starts in the body are ended with them.
    """
    adopt_orphans()
    others = _descendants()
    socket = run_folder / SOCKET
    configuration = run_folder / "supervisord.conf"
    configuration.write_text(
        configured(programs, socket=socket, log_folder=log_folder, directory=directory)
    )
    command = [sys.executable, "-m", "deploy.local.supervisord", "-n", "-c", str(configuration)]
    process = subprocess.Popen(  # noqa: S603 - our own arguments
        [sys.executable, str(TIED), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C reaches us only, and we stop it in order
    )
    supervisor = Supervisor(process, socket, others)
    try:
        yield supervisor
    finally:
        with _deaf():
            supervisor.stop()
            socket.unlink(missing_ok=True)  # supervisord removes it, unless it was killed


def configured(
    programs: Sequence[Program], *, socket: Path, log_folder: Path, directory: Path
) -> str:
    """supervisord's configuration: http://supervisord.org/configuration.html."""
    sections: dict[str, Mapping[str, object]] = {
        "unix_http_server": {"file": socket, "chmod": "0600"},
        "supervisord": {
            "nodaemon": "true",
            "silent": "true",
            "pidfile": socket.with_name("supervisord.pid"),
            "logfile": log_folder / "supervisord.log",
            "logfile_maxbytes": LOG_BYTES,
            "logfile_backups": LOGS_KEPT,
            "directory": directory,
        },
        "rpcinterface:supervisor": {
            "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
        },
    }
    for at, group in enumerate(GROUPS):
        members = [program for program in programs if program.group == group]
        names = ",".join(program.name for program in members)
        sections[f"group:{group}"] = {"programs": names, "priority": at}
        for program in members:
            sections[f"program:{program.name}"] = _options(program, log_folder)
    return "\n".join(
        f"[{name}]\n" + "".join(f"{key}={value}\n" for key, value in options.items())
        for name, options in sections.items()
    )


def _options(program: Program, log_folder: Path) -> dict[str, object]:
    command = [sys.executable, "-I", "-S", str(TIED), *program.command]
    environ = ",".join(f'{name}="{_escaped(value)}"' for name, value in program.environ.items())
    return {
        "command": _escaped(shlex.join(command)),
        "environment": environ,
        "autorestart": "true",
        "startsecs": SETTLED_S,
        "startretries": TRIES,
        "stopasgroup": "true",
        "killasgroup": "true",
        "stopwaitsecs": program.stop_within_s,
        "redirect_stderr": "true",
        "stdout_logfile": log_folder / f"{program.name}.log",
        "stdout_logfile_maxbytes": LOG_BYTES,
        "stdout_logfile_backups": LOGS_KEPT,
    }


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def _descendants() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


@contextmanager
def _deaf() -> Iterator[None]:
    """Lets no signal interrupt the ending, which is short."""
    before = {signum: signal.signal(signum, signal.SIG_IGN) for signum in _STOPPING}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
