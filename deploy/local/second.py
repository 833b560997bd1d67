"""A second router with its own Envoy, over a running mesh's runtimes and with its certificates.

For tests and benchmarks of what routers owe each other. The first router has to be told of its peer
when it starts: PEERS names the variable.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.envoy.install import install as install_envoy
from deploy.local.aside import STOPPED_WITHIN_S, Ports, free_ports
from deploy.local.engines import SIMULATED, Engine
from deploy.local.programs import Prepared, programs
from deploy.local.settings import Settings, address
from deploy.local.supervision import TIED, Program
from evenflow.home import salt_file

ROOT = Path(__file__).resolve().parents[2]
PEERS = "ROUTER_PEERS"


@dataclass(frozen=True, slots=True)
class Doors:
    """Where the second router and its Envoy listen: chosen before the first router starts."""

    mesh: int
    frontend: int
    router: int

    @classmethod
    def free(cls, number: int = 1) -> list["Doors"]:
        ports = iter(free_ports(3 * number))
        return [cls(next(ports), next(ports), next(ports)) for _ in range(number)]


class Second:
    """Its programs, router and envoy."""

    def __init__(self, own: Sequence[Program], environ: Mapping[str, str]) -> None:
        self._own = {each.name: each for each in own}
        self._environ = environ
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        program = self._own[name]
        self._processes[name] = subprocess.Popen(  # noqa: S603 - our own programs
            [sys.executable, "-I", "-S", str(TIED), *program.command],
            cwd=ROOT,
            env={**os.environ, **self._environ, **program.environ},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def kill(self, name: str) -> None:
        self._processes[name].kill()
        self._processes[name].wait()

    def stop(self) -> None:
        for each in reversed(self._processes.values()):
            _stop(each)


@contextmanager
def second(
    doors: Doors,
    home: Path,
    first: Ports,
    *,
    runtime_ports: tuple[int, ...],
    environ: Mapping[str, str],
) -> Iterator[Second]:
    """Started and not yet ready; gone when the body is left."""
    settings = Settings(
        home=home,
        mesh_port=doors.mesh,
        frontend_port=doors.frontend,
        router_port=doors.router,
        policy_port=first.policy,
        telemetry_port=first.telemetry,
        prometheus_port=first.prometheus,
        runtime_ports=runtime_ports,
    )
    engine = Engine(SIMULATED, SIMULATED, SIMULATED, weights=None, python=Path(sys.executable))
    with tempfile.TemporaryDirectory(prefix="evf-") as folder:
        prepared = Prepared(
            envoy=install_envoy(Path(os.environ.get("EVENFLOW_DOWNLOADS", ROOT / ".evenflow"))),
            tenants=home / "tenants.yaml",
            cache_salt=salt_file(home),
            sockets=Path(folder),
        )
        own = [each for each in programs(settings, prepared, engine) if each.name in _OWN]
        made = Second(own, {PEERS: address(first.router), **environ})
        try:
            for each in own:
                made.start(each.name)
            yield made
        finally:
            made.stop()


_OWN = ("router", "envoy")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(STOPPED_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
