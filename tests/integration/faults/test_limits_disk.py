"""The disk under `.evenflow/` is full before the start, or while streams run. Needs root."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.local.aside import mesh_ports, surroundings
from deploy.local.certificates import ensure_certificates
from deploy.local.keys import ensure_cache_salt, ensure_keys, ensure_tenants
from deploy.local.supervision import LOG_BYTES
from evenflow.certificates import issue, read_authority
from evenflow.home import authority_folder, service_folder, service_id
from tests.integration.faults.disks import Disk, disk
from tests.integration.faults.streams import Load
from tests.integration.whole.mesh import Mesh, running
from tests.integration.whole.programs import Programs, until
from tests.processes import ended

SIZE_MB = 160  # what a run asks for, thrice
STREAMS = 8
TOKENS = 40  # 0.8 s
FULL_FOR_S = 4.0
BACK_WITHIN_S = 15.0
SIMULATED = {"RUNTIME_SIMULATED_STEP_S": "0.02"}
COMMAND = "from evenflow.cli.main import main; main()"
ROTATES_SOON = LOG_BYTES - 4_000  # a few requests' lines later


@pytest.fixture
def small() -> Iterator[Disk]:
    with disk(size_mb=SIZE_MB) as made:
        yield made


def start(home: Path) -> "subprocess.CompletedProcess[str]":
    """Of a mesh that must not come up."""
    environ = surroundings(home, *mesh_ports())
    return ended(sys.executable, "-m", "deploy.local", "simulate", environ=environ)


def written(folder: Path) -> dict[str, bytes]:
    return {str(each): each.read_bytes() for each in folder.rglob("*") if each.is_file()}


def test_a_start_on_a_full_disk_says_so(small: Disk) -> None:
    small.fill()

    done = start(small.folder / "home")

    assert done.returncode == 1
    assert done.stderr == (
        f"evenflow: each run needs 50 MB of disk under {small.folder / 'home'}, "
        "but only 0 MB are free; EVENFLOW_HOME names another folder\n"
    )


@pytest.mark.parametrize("room", [0, 4, 20])
def test_a_disk_that_fills_during_the_start_is_named(room: int) -> None:
    with disk(size_mb=SIZE_MB, files=200) as small:
        small.fill_with_files(but=room)

        done = start(small.folder)

    assert done.returncode == 1
    told = f"evenflow: no space left on the disk of {small.folder}: No space left on device\n"
    assert done.stderr.endswith(told)
    assert "Traceback" not in done.stderr


def test_nothing_half_written_is_taken_for_a_key_or_secret(small: Disk) -> None:
    small.fill()
    for make in (ensure_keys, ensure_cache_salt, ensure_certificates):
        with pytest.raises(OSError, match="No space left"):
            make(small.folder)
    assert {*written(small.folder).values()} <= {bytes(SIZE_MB << 20)}, "there is more than ballast"

    small.make_room()
    keys = ensure_keys(small.folder)

    assert all(key.startswith("evf_") for key in keys.values())
    assert len(ensure_cache_salt(small.folder).read_text()) == len("0:") + 64
    assert ensure_certificates(small.folder) == 8


def test_what_is_there_stays_whole_when_its_successor_does_not_fit(small: Disk) -> None:
    home = small.folder / "home"
    ensure_certificates(home)
    keys = ensure_keys(home)
    ensure_tenants(home, keys)
    before = written(home)
    small.fill()

    with pytest.raises(OSError, match="No space left"):
        issue(
            read_authority(authority_folder(home)),
            service_id("router"),
            ("router.evenflow.local",),
            service_folder(home, "router"),
        )
    with pytest.raises(OSError, match="No space left"):
        ensure_tenants(home, {tenant: f"{key}2" for tenant, key in keys.items()})

    assert written(home) == before


def test_streams_and_logs_outlive_a_full_disk(small: Disk) -> None:
    home = small.folder / "home"
    (home / "logs").mkdir(parents=True)
    (home / "logs" / "router.log").write_bytes(b"\n" * ROTATES_SOON)
    environ = {**SIMULATED, "EVENFLOW_HOME": str(home)}
    with running(command="simulate", model="simulated", environ=environ) as made:
        asyncio.run(outlived(replace(made, home=home), small))


async def outlived(mesh: Mesh, small: Disk) -> None:
    programs = Programs(mesh.home)
    clock = asyncio.get_running_loop().time
    await asyncio.to_thread(programs.wait_until_settled)
    before = pids(programs)
    load = Load(mesh.address, mesh.tenant("acme"), mesh.model, tokens=TOKENS)
    async with load.running(STREAMS):
        await load.until_streaming(STREAMS // 2, within_s=10)
        small.fill()
        await asyncio.sleep(FULL_FOR_S)
        assert pids(programs) == before
        told = await asyncio.to_thread(issued, mesh.home)
        await asyncio.to_thread(programs.kill, "router")
        await load.answered(since_s=clock() + 0.2, within_s=BACK_WITHIN_S)
        await asyncio.to_thread(programs.wait_until_settled)
        small.make_room()
        room_s = clock()
        await load.answered(since_s=room_s, within_s=5)

    assert [each.error for each in load.streams if each.error is not None] == []
    assert told.endswith("No space left on device\n")
    assert {name for name, pid in pids(programs).items() if pid != before[name]} == {"router"}
    later = {each.request_id for each in load.streams if each.begun_s >= room_s}
    until(lambda: later <= logged(mesh.home / "logs" / "router.log"), within_s=5)


def issued(home: Path) -> str:
    """What the command says when it can't write a certificate."""
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "certs", "issue", "acme"],
        env={**surroundings(home, *mesh_ports()), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stderr


def pids(programs: Programs) -> dict[str, int]:
    return {name: state.pid for name, state in programs.control.states().items()}


def logged(log: Path) -> set[str]:
    lines = log.read_text(errors="replace").splitlines()
    return {
        json.loads(line)["request_id"]
        for line in lines
        if line.startswith("{") and line.endswith("}") and '"request.ended"' in line
    }
