"""`make run` as a child process: on free ports, in a home of its own, with what is fetched kept."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from deploy.local import aside
from deploy.local.aside import READY_WITHIN_S, mesh_ports
from tests.processes import ended

ROOT = Path(__file__).resolve().parents[3]
ENDED_WITHIN_S = 10.0  # what the README promises


@dataclass
class LocalRun:
    process: psutil.Popen
    home: Path
    environ: dict[str, str]
    lines: list[str] = field(default_factory=list)
    ready: threading.Event = field(default_factory=threading.Event)

    def family(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]

    def program(self, name: str) -> psutil.Process:
        """The process whose command names `name`, for example services.router."""
        return next(
            each
            for each in self.process.children(recursive=True)
            if name in " ".join(each.cmdline()) and "tied.py" not in " ".join(each.cmdline())
        )

    def sockets(self) -> list[Path]:
        """Paths of the unix sockets that the mesh listens on."""
        paths = {
            str(each.laddr)
            for process in self.process.children(recursive=True)
            for each in process.net_connections("unix")
        }
        return [Path(path) for path in paths if path.startswith("/")]

    def output(self) -> str:
        return "".join(self.lines)

    def read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if "evenflow: ready" in line:
                self.ready.set()
        self.ready.set()  # nothing more comes


def surroundings(home: Path) -> dict[str, str]:
    """Variables of a mesh that meets no other one on this machine, on llama.cpp."""
    return aside.surroundings(home, *mesh_ports()) | {"ENGINE": "llamacpp"}


def run_to_its_end(environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """For starts that must fail."""
    return ended(sys.executable, "-m", "deploy.local", "run", environ=environ)


@contextmanager
def local_run(home: Path) -> Iterator[LocalRun]:
    """A mesh that is ready. Whatever the test leaves of it is killed."""
    environ = surroundings(home)
    process = psutil.Popen(
        [sys.executable, "-m", "deploy.local", "run"],
        cwd=ROOT,
        env=environ,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    run = LocalRun(process, home, environ)
    reader = threading.Thread(target=run.read)
    reader.start()
    family: list[psutil.Process] = []
    try:
        assert run.ready.wait(READY_WITHIN_S), run.output()
        assert process.poll() is None, run.output()
        family = run.family()
        yield run
    finally:
        if process.poll() is None:
            process.terminate()
        psutil.wait_procs([process, *family], timeout=ENDED_WITHIN_S)
        for each in family:
            if each.is_running():
                each.kill()
        reader.join(ENDED_WITHIN_S)
        process.stdout.close()
