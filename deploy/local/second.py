"""A second router with its own Envoy, over a running mesh's runtimes and with its certificates.

For tests and benchmarks of what routers owe each other. The first router has to be told of its peer
when it starts: PEERS names the variable.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.envoy.install import install as install_envoy
from deploy.local.aside import STOPPED_WITHIN_S, Ports, free_ports
from deploy.local.engines import SIMULATED, Engine
from deploy.local.programs import Prepared, programs
from deploy.local.settings import Settings, address
from deploy.local.supervision import TIED

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


@contextmanager
def second(
    doors: Doors,
    home: Path,
    first: Ports,
    *,
    runtime_ports: tuple[int, ...],
    environ: Mapping[str, str],
) -> Iterator[dict[str, "subprocess.Popen[bytes]"]]:
    """Its processes, router and envoy, started and not yet ready; gone when the body is left."""
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
    own = Engine(SIMULATED, SIMULATED, SIMULATED, weights=None, python=Path(sys.executable))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="evf-")))
        prepared = Prepared(
            envoy=install_envoy(Path(os.environ.get("EVENFLOW_DOWNLOADS", ROOT / ".evenflow"))),
            tenants=home / "tenants.yaml",
            cache_salt=home / "secrets" / "cache-salt",
            key_secret=home / "secrets" / "api-keys",
            sockets=folder,
        )
        processes = {}
        for program in programs(settings, prepared, own):
            if program.name in {"router", "envoy"}:
                process = subprocess.Popen(  # noqa: S603 - our own programs
                    [sys.executable, "-I", "-S", str(TIED), *program.command],
                    cwd=ROOT,
                    env={**os.environ, PEERS: address(first.router), **environ, **program.environ},
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
                stack.callback(_stop, process)
                processes[program.name] = process
        yield processes


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(STOPPED_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
