"""One of two runtimes dies, or freezes, under forty streams.

What had no token yet is answered by the other, what streamed ends within a second and is told from
a caller's own mistake, nobody is sent there afterwards, and it is used again soon after it is back.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from evenflow.errors import StreamLost
from evenflow.home import service_folder
from services.chassis.identity import TlsFiles
from tests.integration.faults.operator import Operator, operator, until_idle
from tests.integration.faults.streams import Load, Stream
from tests.integration.whole.mesh import Mesh, running
from tests.integration.whole.programs import Programs

STREAMS = 40
TOKENS = 30  # 1.2 s
SIMULATED = {
    "RUNTIME_MAX_RUNNING": "64",
    "RUNTIME_SIMULATED_STEP_S": "0.04",
    "RUNTIME_SIMULATED_STRAGGLER_SHARE": "0.5",  # at each moment some wait for their first token
    "RUNTIME_SIMULATED_STRAGGLER_S": "1.0",
}
SIGNALS = {"kill": signal.SIGKILL, "freeze": signal.SIGSTOP}
UNDER_WAY_S = 3.0
ENDED_WITHIN_S = 1.0
LEFT_OUT_WITHIN_S = 1.0
AWAY_S = 4.0
USED_AGAIN_WITHIN_S = 5.0
IDLE_WITHIN_S = 5.0


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with running(command="simulate", model="simulated", environ=SIMULATED) as started:
        yield started


@dataclass(frozen=True, slots=True)
class Seen:
    """Of one fault. `struck_s` and `back_s`: when the runtime went, and was there again."""

    streams: list[Stream]
    struck_s: float
    back_s: float
    used_again_s: float
    checks: int
    attempts: dict[str, int]  # by request
    left_out: dict[str, str]  # by request: why the struck runtime was, for those after it


@asynccontextmanager
async def ready_mesh(mesh: Mesh) -> AsyncIterator[Operator]:
    """Both runtimes serve, and have for so long that a death is no failed start."""
    await asyncio.to_thread(Programs(mesh.home).wait_until_settled)
    tls = TlsFiles.in_folder(service_folder(mesh.home, "operator"))
    address = f"127.0.0.1:{mesh.ports('router')[0]}"
    async with operator(address, tls) as asked:
        await asked.until_idle(within_s=USED_AGAIN_WITHIN_S)
        yield asked


async def struck(mesh: Mesh, fault: str) -> Seen:
    clock = asyncio.get_running_loop().time
    before = mesh.envoy_counters()
    load = Load(mesh.address, mesh.tenant("acme"), mesh.model, tokens=TOKENS)
    async with ready_mesh(mesh) as asked:
        # Looked up before: nothing may hold up our own loop, which reads the clock for the streams.
        process = Programs(mesh.home).process("runtime-1")
        async with load.running(STREAMS):
            await asyncio.sleep(UNDER_WAY_S)
            struck_s = clock()
            process.send_signal(SIGNALS[fault])
            try:
                await asyncio.sleep(AWAY_S)
            finally:
                back_s = clock() if fault == "freeze" else struck_s
                if fault == "freeze":
                    process.resume()
            used_again_s = await load.until_used(
                mesh.runtimes[0], since_s=struck_s, within_s=USED_AGAIN_WITHIN_S + 5
            )
        await asked.until_idle(within_s=IDLE_WITHIN_S)
        explained = {
            stream.request_id: await asked.explain(stream.request_id)
            for stream in load.streams
            if stream.error is None and (stream.ended_s or 0.0) >= struck_s
        }
    return Seen(
        streams=load.streams,
        struck_s=struck_s,
        back_s=back_s,
        used_again_s=used_again_s,
        checks=mesh.envoy_counters()["checks"] - before["checks"],
        attempts={name: each.outcome.attempts for name, each in explained.items()},
        left_out={
            name: candidate.left_out
            for name, each in explained.items()
            for candidate in each.candidates
            if candidate.address == mesh.runtimes[0]
        },
    )


@pytest.fixture(scope="module", params=["kill", "freeze"])
def seen(mesh: Mesh, request: pytest.FixtureRequest) -> Seen:
    return asyncio.run(struck(mesh, request.param))


def test_streams_under_way_there_end_soon_and_keep_what_came(mesh: Mesh, seen: Seen) -> None:
    there = [
        stream
        for stream in seen.streams
        if stream.streamed_at(seen.struck_s) and stream.endpoint == mesh.runtimes[0]
    ]

    assert len(there) > STREAMS / 5
    for stream in there:
        assert stream.ended_s is not None
        assert stream.ended_s - seen.struck_s < ENDED_WITHIN_S
        assert isinstance(stream.error, StreamLost)
        assert stream.error.tokens == stream.tokens > 0
        assert stream.error.text


def test_every_other_request_is_answered(mesh: Mesh, seen: Seen) -> None:
    failed = [stream for stream in seen.streams if stream.error is not None]

    assert all(stream.lost_at(seen.struck_s) for stream in failed)
    assert {stream.endpoint for stream in failed} == {mesh.runtimes[0]}


def test_what_waited_there_moved_on_and_one_layer_moved_it(seen: Seen) -> None:
    waited = [stream for stream in seen.streams if stream.waited_at(seen.struck_s)]
    moved = [stream for stream in waited if seen.attempts.get(stream.request_id) == 2]

    assert moved
    assert max(seen.attempts.values()) == 2
    assert seen.checks == len(seen.streams)  # nobody but Envoy asked twice


def test_after_a_second_nobody_is_sent_there(seen: Seen) -> None:
    later = [s for s in seen.streams if s.begun_s >= seen.struck_s + LEFT_OUT_WITHIN_S]
    at_once = [
        stream.request_id
        for stream in seen.streams
        if stream.begun_s >= seen.struck_s and seen.attempts[stream.request_id] == 1
    ]

    assert later
    assert {seen.attempts[stream.request_id] for stream in later} == {1}
    assert "unreachable" in {seen.left_out[request_id] for request_id in at_once}


def test_it_is_used_again_soon_after_it_is_back(seen: Seen) -> None:
    assert seen.used_again_s - seen.back_s < USED_AGAIN_WITHIN_S


def test_a_runtime_that_thaws_has_dropped_what_others_gave_up(mesh: Mesh) -> None:
    async def scenario() -> None:
        programs = Programs(mesh.home)
        load = Load(mesh.address, mesh.tenant("acme"), mesh.model, tokens=1000)
        async with ready_mesh(mesh), mesh.runtime_stubs() as stubs:
            async with load.running(STREAMS):
                await asyncio.sleep(UNDER_WAY_S / 2)
                load.stop()
                programs.freeze("runtime-1", "runtime-2")
                try:
                    await load.until_over(within_s=ENDED_WITHIN_S + 5)
                finally:
                    programs.thaw("runtime-1", "runtime-2")
            for stub in stubs.values():
                await until_idle(stub, within_s=ENDED_WITHIN_S)

    asyncio.run(scenario())
