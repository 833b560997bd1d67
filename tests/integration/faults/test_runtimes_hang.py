"""The engine of one of two runtimes hangs while its server lives, under thirty streams."""

import asyncio
import signal
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from evenflow.errors import StreamLost
from evenflow.home import service_folder
from services.chassis.identity import TlsFiles
from tests.integration.faults.operator import operator
from tests.integration.faults.streams import Load, Stream
from tests.integration.whole.mesh import Mesh, running
from tests.integration.whole.programs import Programs

STREAMS = 30
TOKENS = 30
STALL_S = 3.0  # RUNTIME_STALL_S
LEFT_OUT_WITHIN_S = 2.5  # endpoints.STALLED_AFTER_S, and a state every 0.2 s
ENDED_WITHIN_S = STALL_S + 1.0
HANGS_S = 6.0
USED_AGAIN_WITHIN_S = 5.0
SIMULATED = {
    "RUNTIME_MAX_RUNNING": "64",
    "RUNTIME_SIMULATED_STEP_S": "0.04",
    "RUNTIME_SIMULATED_STRAGGLER_SHARE": "0.5",
    "RUNTIME_SIMULATED_HANG_ON_SIGNAL": "true",
}


@dataclass(frozen=True, slots=True)
class Seen:
    streams: list[Stream]
    hung_s: float
    left_out_s: float  # after it
    used_again_s: float  # after the engine went on
    left_out: dict[str, str]  # by request: why the struck runtime was


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with running(command="simulate", model="simulated", environ=SIMULATED) as started:
        yield started


@pytest.fixture(scope="module")
def seen(mesh: Mesh) -> Seen:
    return asyncio.run(hang(mesh))


async def hang(mesh: Mesh) -> Seen:
    process, struck = Programs(mesh.home).process("runtime-1"), mesh.runtimes[0]
    clock = asyncio.get_running_loop().time
    load = Load(mesh.address, mesh.tenant("acme"), mesh.model, tokens=TOKENS)
    tls = TlsFiles.in_folder(service_folder(mesh.home, "operator"))
    async with operator(f"127.0.0.1:{mesh.ports('router')[0]}", tls) as asked:
        async with load.running(STREAMS):
            await asyncio.sleep(3)
            hung_s = clock()
            process.send_signal(signal.SIGUSR1)
            left_out_s = await asked.until_ready(struck, ready=False, within_s=10)
            await asyncio.sleep(HANGS_S - left_out_s)
            on_s = clock()
            process.send_signal(signal.SIGUSR1)
            used_s = await load.until_used(struck, since_s=on_s, within_s=10)
        await asked.until_idle(within_s=5)
        later = [s for s in load.streams if s.began_within(hung_s + LEFT_OUT_WITHIN_S, on_s)]
        explained = [await asked.explain(stream.request_id) for stream in later]
    left_out = {
        each.request_id: candidate.left_out
        for each in explained
        for candidate in each.candidates
        if candidate.address == struck
    }
    return Seen(load.streams, hung_s, left_out_s, used_s - on_s, left_out)


def test_the_router_stays_away_and_says_why(seen: Seen) -> None:
    assert seen.left_out_s < LEFT_OUT_WITHIN_S
    assert set(seen.left_out.values()) == {"stalled"}


def test_streams_under_way_there_end_with_a_reason(mesh: Mesh, seen: Seen) -> None:
    there = [
        stream
        for stream in seen.streams
        if stream.streamed_at(seen.hung_s + 0.1) and stream.endpoint == mesh.runtimes[0]
    ]

    assert there
    for stream in there:
        assert stream.ended_s is not None
        assert stream.ended_s - seen.hung_s < ENDED_WITHIN_S
        assert isinstance(stream.error, StreamLost)
        assert stream.error.reason == "ENGINE_STALLED"
        assert stream.error.tokens == stream.tokens > 0


def test_every_other_request_is_answered_elsewhere(mesh: Mesh, seen: Seen) -> None:
    failed = [stream for stream in seen.streams if stream.error is not None]
    waited = [stream for stream in seen.streams if stream.waited_at(seen.hung_s)]

    assert all(stream.lost_at(seen.hung_s) for stream in failed)
    assert {stream.endpoint for stream in failed} == {mesh.runtimes[0]}
    assert any((stream.first_token_s or 0.0) > seen.hung_s + STALL_S - 1 for stream in waited)


def test_it_is_used_again_when_its_engine_goes_on(seen: Seen) -> None:
    assert seen.used_again_s < USED_AGAIN_WITHIN_S
