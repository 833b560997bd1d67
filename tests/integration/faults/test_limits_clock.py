"""The wall clock jumps while streams run: every decision is by the monotonic clock.

libfaketime stands between each of our programs and its wall clock, and lies by what a file says.
Envoy hangs in it before its first line, so it keeps the true time.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import grpc
import httpx
import libfaketime
import pytest

from deploy.envoy.install import REQUIREMENTS, install
from tests.integration.faults.streams import Load, Stream
from tests.integration.whole.mesh import ROOT, Mesh, running
from tests.integration.whole.programs import Programs, until

HOUR_S = 3_600
DAYS_31_S = 31 * 86_400  # past the life of every certificate
STREAMS = 8
TOKENS = 40  # 0.8 s
AFTER_S = 3.0  # longer than every silence, ping and idle time that could be met by mistake
LIBRARY = Path(libfaketime.__file__).parent / "vendor/libfaketime/src/libfaketime.so.1"


class Clock:
    def __init__(self, file: Path) -> None:
        self._file = file
        self.jump(0)

    @property
    def environ(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",  # when a jump is seen
            "DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def jump(self, offset_s: int) -> None:
        """From the true time."""
        draft = self._file.with_suffix(".draft")
        draft.write_text(f"{offset_s:+d}\n")
        draft.replace(self._file)


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Clock:
    return Clock(tmp_path_factory.mktemp("clock") / "offset")


@pytest.fixture(scope="module")
def mesh(clock: Clock, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    downloads = tmp_path_factory.mktemp("downloads")
    truthful_envoy(downloads)
    environ = {
        "RUNTIME_SIMULATED_STEP_S": "0.02",
        "EVENFLOW_DOWNLOADS": str(downloads),
        **clock.environ,
    }
    with running(command="simulate", model="simulated", environ=environ) as started:
        yield started


def truthful_envoy(downloads: Path) -> None:
    """Looks installed, and runs the installed one without libfaketime."""
    kept = os.environ.get("EVENFLOW_DOWNLOADS", str(ROOT / ".evenflow"))
    real = install(Path(kept))
    program = downloads / real.relative_to(kept)
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nunset LD_PRELOAD\nexec "{real}" "$@"\n')
    program.chmod(0o700)
    (downloads / "envoy" / REQUIREMENTS.name).write_bytes(REQUIREMENTS.read_bytes())


@asynccontextmanager
async def load(mesh: Mesh) -> AsyncIterator[Load]:
    made = Load(mesh.address, mesh.tenant("acme"), mesh.model, tokens=TOKENS)
    async with made.running(STREAMS):
        await made.until_streaming(STREAMS, within_s=10)
        yield made


@pytest.mark.parametrize("offset_s", [HOUR_S, -HOUR_S], ids=["forward", "back"])
def test_no_stream_notices_a_jump_of_an_hour(mesh: Mesh, clock: Clock, offset_s: int) -> None:
    async def run() -> list[Stream]:
        async with load(mesh) as streams:
            clock.jump(offset_s)
            await asyncio.sleep(AFTER_S)
            assert lines_dated(mesh, "router", offset_s), "the router has not seen the jump"
            await restarted(mesh, "telemetry")
            clock.jump(0)
            await asyncio.sleep(AFTER_S)

        return streams.streams

    streams = asyncio.run(run())

    assert [each.error for each in streams if each.error is not None] == []
    assert all(each.tokens == TOKENS for each in streams)


async def restarted(mesh: Mesh, name: str) -> None:
    """By supervisord, and called by the others over new connections."""
    programs = Programs(mesh.home)
    await asyncio.to_thread(programs.kill, name)
    await asyncio.to_thread(programs.wait_until_settled)
    await asyncio.to_thread(until, lambda: records(mesh) > 0)


def records(mesh: Mesh) -> int:
    """Lines about requests that telemetry has had since it started."""
    with suppress(httpx.HTTPError):  # it is not up yet
        return mesh.metrics().count('tenant="acme"')
    return 0


def test_past_the_life_of_certificates_what_is_connected_goes_on(mesh: Mesh, clock: Clock) -> None:
    async def run() -> list[Stream]:
        async with load(mesh) as streams:
            clock.jump(DAYS_31_S)
            await asyncio.sleep(AFTER_S)
            with pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
                await asyncio.to_thread(mesh.explain, "none")
            clock.jump(0)
            await asyncio.sleep(AFTER_S)
        return streams.streams

    streams = asyncio.run(run())

    assert [each.error for each in streams if each.error is not None] == []
    with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
        mesh.explain("none")


def lines_dated(mesh: Mesh, name: str, offset_s: int) -> list[str]:
    """Log lines of now, by a clock that is wrong by so much."""
    log = mesh.home / "logs" / f"{name}.log"
    then_s = datetime.now(UTC).timestamp() + offset_s
    lines = (line for line in log.read_text().splitlines() if line.startswith("{"))
    return [line for line in lines if abs(dated_s(line) - then_s) < 2 * AFTER_S]


def dated_s(line: str) -> float:
    return datetime.fromisoformat(json.loads(line)["timestamp"]).timestamp()
