"""Every program is restarted, one after the other, under load: no request fails.

By the command that an operator has for it. Envoy's turn is looked at alone, too: it hands its doors
to the next one and lives until its streams have ended.
"""

import asyncio
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from deploy.envoy.admin import Running
from deploy.envoy.admin import running as running_envoy
from deploy.envoy.hand_over import ADMIN
from deploy.local.aside import surroundings
from evenflow.home import service_folder
from services.chassis.identity import TlsFiles
from tests.integration.faults.callers import Asked, asking
from tests.integration.faults.operator import operator
from tests.integration.faults.streams import Load, Stream
from tests.integration.whole.mesh import ROOT, Mesh, running
from tests.integration.whole.programs import Programs, until

STREAMS = 8
TOKENS = 75  # 1.5 s: longer than a program may take to end, so only draining saves them
LONG_TOKENS = 400  # 8 s: longer than Envoy's restart
WITHIN_S = 20.0
ALL_WITHIN_S = 120.0


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    environ = {"RUNTIME_SIMULATED_STEP_S": "0.02"}
    with running(command="simulate", model="simulated", environ=environ) as started:
        yield started


def restart(mesh: Mesh, *names: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deploy.local", "restart", *names],
        cwd=ROOT,
        env=surroundings(mesh.home, mesh.single_ports, mesh.runtime_ports),
        capture_output=True,
        text=True,
        check=False,
        timeout=ALL_WITHIN_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def load(mesh: Mesh, tokens: int = TOKENS) -> Load:
    return Load(mesh.address, mesh.tenant("acme"), mesh.model, tokens=tokens)


def failures(streams: list[Stream], asked: dict[str, Asked]) -> list[object]:
    others = [failure for each in asked.values() for failure in each.failures]
    return [*(each.error for each in streams if each.error is not None), *others]


async def until_idle(mesh: Mesh) -> None:
    tls = TlsFiles.in_folder(service_folder(mesh.home, "operator"))
    async with operator(f"127.0.0.1:{mesh.ports('router')[0]}", tls) as router:
        await router.until_idle(within_s=WITHIN_S)


def envoys(mesh: Mesh) -> list[psutil.Process]:
    """Oldest first."""
    launcher = psutil.Process(Programs(mesh.home).control.states()["envoy"].pid)
    return sorted(launcher.children(), key=psutil.Process.create_time)


def answering(mesh: Mesh) -> Running | None:
    """The Envoy that has the admin socket."""
    return running_envoy(mesh.home / "run" / ADMIN)


def the_envoy(mesh: Mesh) -> psutil.Process:
    """Once there is only one."""
    until(lambda: len(envoys(mesh)) == 1)
    return envoys(mesh)[0]


def test_no_request_fails_while_everything_is_restarted(mesh: Mesh) -> None:
    async def run() -> tuple[list[Stream], dict[str, Asked]]:
        steady = load(mesh)
        async with asking(mesh, tokens=TOKENS) as others, steady.running(STREAMS):
            await steady.until_streaming(STREAMS, within_s=WITHIN_S)
            await asyncio.to_thread(restart, mesh)
            restarted_s = asyncio.get_running_loop().time()
            await steady.answered(since_s=restarted_s, within_s=WITHIN_S)
        await until_idle(mesh)
        return steady.streams, others

    before = {name: state.pid for name, state in Programs(mesh.home).control.states().items()}
    streams, others = asyncio.run(run())

    assert failures(streams, others) == []
    assert all(each.answered > 0 for each in others.values())
    after = {name: state.pid for name, state in Programs(mesh.home).control.states().items()}
    assert {name for name in before if before[name] == after[name]} == {"envoy"}  # its launcher
    assert answering(mesh) == Running(epoch=1, live=True)


def test_envoy_lives_until_its_streams_have_ended(mesh: Mesh) -> None:
    async def run() -> tuple[list[Stream], dict[str, Asked], float]:
        clock = asyncio.get_running_loop().time
        long, steady = load(mesh, LONG_TOKENS), load(mesh)
        old = await asyncio.to_thread(the_envoy, mesh)
        async with asking(mesh, tokens=TOKENS) as others, long.running(STREAMS):
            await long.until_streaming(STREAMS, within_s=WITHIN_S)
            long.stop()
            async with steady.running(STREAMS):
                await asyncio.to_thread(restart, mesh, "envoy")
                restarted_s = clock()
                await steady.answered(since_s=restarted_s, within_s=WITHIN_S)
                assert old.is_running()
        await asyncio.to_thread(old.wait, WITHIN_S)
        await until_idle(mesh)
        assert min(each.ended_s or 0.0 for each in long.streams) > restarted_s
        return long.streams + steady.streams, others, restarted_s

    streams, others, restarted_s = asyncio.run(run())

    assert failures(streams, others) == []
    assert sum(each.begun_s > restarted_s for each in streams) >= STREAMS
    assert others["openai"].told_to_close == 1


def test_a_new_envoy_that_dies_before_it_serves_costs_nothing(mesh: Mesh) -> None:
    programs = Programs(mesh.home)

    def strike() -> None:
        serving = the_envoy(mesh)
        programs.control.stop("router")  # so that the new one waits for its configuration
        programs.control.signal("envoy", "HUP")
        until(lambda: (seen := answering(mesh)) is not None and not seen.live)
        envoys(mesh)[1].kill()
        assert the_envoy(mesh) == serving
        programs.control.start("router")

    async def run() -> tuple[list[Stream], dict[str, Asked]]:
        steady = load(mesh)
        async with asking(mesh, tokens=TOKENS) as others, steady.running(STREAMS):
            await steady.until_streaming(STREAMS, within_s=WITHIN_S)
            await asyncio.to_thread(strike)
            await asyncio.to_thread(restart, mesh, "router", "envoy")
        await until_idle(mesh)
        return steady.streams, others

    streams, others = asyncio.run(run())

    assert failures(streams, others) == []


def test_the_command_names_the_programs_that_there_are(mesh: Mesh) -> None:
    with pytest.raises(AssertionError, match="program must be one of runtime-1, runtime-2, policy"):
        restart(mesh, "gateway")
