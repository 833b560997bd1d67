"""More connections than a program may have files: the others wait or are refused, nothing spins."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import psutil
import pytest

from deploy.local.aside import aside, mesh_ports, surroundings
from evenflow.client import Client
from evenflow.errors import Unreachable
from tests.integration.faults.streams import Load
from tests.integration.whole.mesh import Mesh
from tests.integration.whole.programs import Programs, until
from tests.processes import ended

FILES = 1_024  # the fewest that a mesh starts with
CONNECTIONS = FILES // 2  # that its Envoy takes
MORE = 8  # files that a program may still open
CALLERS = 60
STREAMS = 8
TOKENS = 40  # 0.8 s
LOOKED_AT_S = 3.0
BUSY = 0.5  # of a core; a loop that spins takes a whole one, and streams a tenth
LINES = 5  # one a second
SIMULATED = {"RUNTIME_SIMULATED_STEP_S": "0.02"}


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with aside("simulate", SIMULATED, open_files=FILES) as started:
        yield Mesh(
            home=started.home,
            model="simulated",
            process=started.process,
            single_ports=started.ports,
            runtime_ports=started.runtime_ports,
        )


def test_a_start_with_too_few_says_how_many_it_needs(tmp_path: Path) -> None:
    few = "ulimit -n 512; exec .venv/bin/python -m deploy.local simulate"
    done = ended("sh", "-c", few, environ=surroundings(tmp_path, *mesh_ports()))

    assert done.returncode == 1
    assert done.stderr == (
        "evenflow: each program needs 1,024 open files, but only 512 are allowed; "
        "raise the hard limit: ulimit -Hn\n"
    )


@asynccontextmanager
async def load(mesh: Mesh) -> AsyncIterator[Load]:
    """Streams all along, none of which may fail."""
    made = Load(mesh.address, mesh.tenant("acme"), mesh.model, tokens=TOKENS)
    async with made.running(STREAMS):
        await made.until_streaming(STREAMS, within_s=10)  # each has its connection
        yield made
    assert [each.error for each in made.streams if each.error is not None] == []


@contextmanager
def callers(port: int, number: int) -> Iterator[list[socket.socket]]:
    """They connect, and say nothing."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
            for _ in range(number)
        ]


def is_closed(caller: socket.socket) -> bool:
    caller.setblocking(False)
    try:
        return caller.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


async def busy_share(process: psutil.Process) -> float:
    """Of one core, from now on."""
    process.cpu_percent()
    await asyncio.sleep(LOOKED_AT_S)
    return process.cpu_percent() / 100


@pytest.mark.parametrize(
    ("name", "port_of", "refuses"),
    [
        ("router", "router", False),
        ("policy", "policy", False),
        ("telemetry", "telemetry", False),
        ("telemetry", "prometheus", True),
        ("runtime-1", "runtime", False),
    ],
    ids=["router", "policy", "telemetry", "prometheus", "runtime"],
)
def test_a_service_without_files_lets_callers_wait(
    mesh: Mesh, name: str, port_of: str, *, refuses: bool
) -> None:
    async def run() -> None:
        programs = Programs(mesh.home)
        process = await asyncio.to_thread(programs.process, name)
        log = mesh.home / "logs" / f"{name}.log"
        lines_before = len(complaints(log.read_text()))
        async with load(mesh):
            with few_more(process), callers(mesh.ports(port_of)[0], CALLERS) as waiting:
                assert await busy_share(process) < BUSY
                closed = sum(map(is_closed, waiting))
            assert closed > CALLERS / 2 if refuses else closed == 0
            assert len(complaints(log.read_text())) - lines_before <= LINES
            await asyncio.to_thread(until, lambda: answers(mesh, port_of), within_s=5)

    asyncio.run(run())


@contextmanager
def few_more(process: psutil.Process) -> Iterator[None]:
    before = process.rlimit(psutil.RLIMIT_NOFILE)
    process.rlimit(psutil.RLIMIT_NOFILE, (process.num_fds() + MORE, before[1]))
    try:
        yield
    finally:
        process.rlimit(psutil.RLIMIT_NOFILE, before)


def complaints(log: str) -> list[str]:
    """Lines that are not the services' own, which are JSON."""
    return [line for line in log.splitlines() if not line.startswith("{")]


def answers(mesh: Mesh, port_of: str) -> bool:
    """It takes a connection, and does not close it at once."""
    with callers(mesh.ports(port_of)[0], 1) as (caller,):
        return not is_closed(caller)


def test_envoy_refuses_connections_before_its_files_are_used_up(mesh: Mesh) -> None:
    async def run() -> None:
        programs = Programs(mesh.home)
        envoy = await asyncio.to_thread(envoy_of, programs)
        log = mesh.home / "logs" / "envoy.log"
        lines_before = len(complaints(log.read_text()))
        async with load(mesh):
            with callers(mesh.single_ports.mesh, CONNECTIONS + CALLERS) as waiting:
                assert await busy_share(envoy) < BUSY
                closed = sum(map(is_closed, waiting))
                assert CALLERS <= closed <= CALLERS + STREAMS + 2
                assert envoy.num_fds() < FILES
                with pytest.raises(Unreachable):
                    await asked(mesh)
            assert len(complaints(log.read_text())) - lines_before <= LINES
            await asked(mesh)

    asyncio.run(run())


async def asked(mesh: Mesh) -> None:
    async with Client(mesh.address, certificate_folder=mesh.tenant("acme")) as client:
        await client.list_models(deadline_s=5)


def envoy_of(programs: Programs) -> psutil.Process:
    """It is a child of the program that supervisord knows."""
    started = programs.process("envoy")
    return next(
        each for each in [*started.children(recursive=True), started] if each.num_threads() > 2
    )
