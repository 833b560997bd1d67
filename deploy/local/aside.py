"""A mesh beside others on one machine, for tests and benchmarks: its own ports and folder."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
READY_WITHIN_S = 120.0  # a machine that does other things too
STOPPED_WITHIN_S = 20.0
RUNTIMES = 2
# Below the ports that Linux lends to outgoing connections (ip_local_port_range), one of which might
# take a port between our look and its use.
_OURS = range(20_000, 32_000)


class DidNotStart(Exception):
    """The mesh ended or said nothing in time; the message is what it printed."""


class Ports(NamedTuple):
    mesh: int
    frontend: int
    router: int
    policy: int
    telemetry: int
    prometheus: int


@dataclass(frozen=True, slots=True)
class Aside:
    home: Path
    process: "subprocess.Popen[str]"
    ports: Ports
    runtime_ports: tuple[int, ...]
    output: list[str] = field(default_factory=list)  # lines printed so far
    spoke: threading.Event = field(default_factory=threading.Event)  # ready, or ended


def free_ports(number: int) -> list[int]:
    """Ports that nobody listens on, all different."""
    candidates = random.SystemRandom().sample(_OURS, len(_OURS))
    found: list[int] = []
    with ExitStack() as held:
        for port in candidates:
            if len(found) == number:
                return found
            probe = held.enter_context(socket.socket())
            if not _taken(probe, port):
                found.append(port)
    raise OSError(f"there are no {number} free ports")


def free_port() -> int:
    return free_ports(1)[0]


def mesh_ports(runtimes: int = RUNTIMES) -> tuple[Ports, tuple[int, ...]]:
    """Free ports of one mesh, and of its runtimes."""
    numbers = free_ports(len(Ports._fields) + runtimes)
    return Ports(*numbers[:-runtimes]), tuple(numbers[-runtimes:])


def surroundings(home: Path, ports: Ports, runtime_ports: tuple[int, ...]) -> dict[str, str]:
    """Variables of a mesh that meets no other one on this machine; what is fetched is kept."""
    return {
        **os.environ,
        **{f"EVENFLOW_{name.upper()}_PORT": str(at) for name, at in ports._asdict().items()},
        "EVENFLOW_RUNTIME_PORTS": ",".join(map(str, runtime_ports)),
        "EVENFLOW_HOME": str(home),
        "EVENFLOW_DOWNLOADS": os.environ.get("EVENFLOW_DOWNLOADS", str(ROOT / ".evenflow")),
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'client'}",
        "PYTHONUNBUFFERED": "1",
    }


@contextmanager
def aside(
    command: str,
    environ: Mapping[str, str],
    *,
    runtimes: int = RUNTIMES,
    open_files: int | None = None,
) -> Iterator[Aside]:
    """Ready inside; ends by Ctrl-C, as a person would. `command`: of `python -m deploy.local`.
    `open_files`: how many each program may have at most; None, as many as we.

    Raises:
        DidNotStart: it is not ready in time.
    """
    home = Path(tempfile.mkdtemp(prefix="evf-"))  # short, for unix sockets
    ports, runtime_ports = mesh_ports(runtimes)
    with subprocess.Popen(  # noqa: S603 - our own command
        [*_limited(open_files), sys.executable, "-m", "deploy.local", command],
        cwd=ROOT,
        env=surroundings(home, ports, runtime_ports) | dict(environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        made = Aside(home, process, ports, runtime_ports)
        reader = threading.Thread(target=_read, args=(made,))
        reader.start()
        try:
            if not made.spoke.wait(READY_WITHIN_S) or process.poll() is not None:
                raise DidNotStart("".join(made.output))
            yield made
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(STOPPED_WITHIN_S)
            reader.join()
            shutil.rmtree(home)


def _limited(open_files: int | None) -> list[str]:
    if open_files is None:
        return []
    return ["sh", "-c", f'ulimit -n {open_files} && exec "$@"', "sh"]


def _read(made: Aside) -> None:
    for line in made.process.stdout or ():
        made.output.append(line)
        if line.startswith("evenflow: ready"):
            made.spoke.set()
    made.spoke.set()  # it ended


def _taken(probe: socket.socket, port: int) -> bool:
    try:
        probe.bind(("127.0.0.1", port))
    except OSError:
        return True
    return False
