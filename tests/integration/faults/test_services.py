"""Router, policy, telemetry and Envoy die or freeze under steady streams, alone and in pairs.

docs/failure-modes.md promises what is asserted here.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import combinations
from typing import Any

import grpc
import pytest

from evenflow.errors import DeadlineExceeded, EvenflowError, Refused, StreamLost, Unreachable
from tests.integration.faults.streams import Load, Stream
from tests.integration.whole.mesh import Mesh, running
from tests.integration.whole.programs import Programs, until

SERVICES = ("router", "policy", "telemetry", "envoy")
PAIRS = tuple(combinations(SERVICES, 2))
STREAMS = 8
TOKENS = 40  # 0.8 s
BACK_WITHIN_S = 15.0  # of a process: supervisord's turn, and Python's imports on a busy machine
FROZEN_S = 3.0
FOUND_OUT_S = 22.0  # 40 times a quarter of a second without an answer, and as long between
IMPATIENT_S = 3.0
DEADLINE_S = 2.0
SETTLES_WITHIN_S = 5.0  # after a frozen one goes on
SIMULATED = {"RUNTIME_SIMULATED_STEP_S": "0.02"}


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with running(command="simulate", model="simulated", environ=SIMULATED) as started:
        yield started


@asynccontextmanager
async def load(mesh: Mesh, *, deadline_s: float = 30.0) -> AsyncIterator[Load]:
    made = Load(mesh.address, mesh.tenant("acme"), mesh.model, tokens=TOKENS, deadline_s=deadline_s)
    async with made.running(STREAMS):
        yield made


def failed(streams: list[Stream]) -> list[EvenflowError]:
    return [each.error for each in streams if each.error is not None]


async def strike(mesh: Mesh, names: tuple[str, ...]) -> list[Stream]:
    """kill -9 under load, until the mesh answers again and everyone is back."""
    programs = Programs(mesh.home)
    clock = asyncio.get_running_loop().time
    await asyncio.to_thread(programs.wait_until_settled)
    async with load(mesh) as streams:
        await streams.answered(since_s=0.0, within_s=5.0)
        struck_s = clock()
        await asyncio.to_thread(programs.kill, *names)
        await streams.answered(since_s=struck_s + 0.2, within_s=BACK_WITHIN_S)
        await asyncio.to_thread(programs.wait_until_settled)
        back_s = clock()
        await streams.answered(since_s=back_s, within_s=SETTLES_WITHIN_S)
    assert not failed([each for each in streams.streams if each.begun_s >= back_s])
    return streams.streams


@pytest.mark.parametrize(
    "names",
    [("router",), ("policy",), ("telemetry",), ("router", "telemetry"), ("policy", "telemetry")],
    ids="+".join,
)
def test_killed_nobody_notices_more_than_a_wait(mesh: Mesh, names: tuple[str, ...]) -> None:
    streams = asyncio.run(strike(mesh, names))

    assert failed(streams) == []


@pytest.mark.parametrize("names", [p for p in PAIRS if "envoy" in p] + [("envoy",)], ids="+".join)
def test_killed_with_envoy_callers_see_a_lost_connection(
    mesh: Mesh, names: tuple[str, ...]
) -> None:
    streams = asyncio.run(strike(mesh, names))

    errors = failed(streams)
    assert any(isinstance(error, StreamLost) for error in errors)
    assert {type(error) for error in errors} <= {StreamLost, Unreachable}


def test_killed_with_policy_a_router_waits_for_its_tenants(mesh: Mesh) -> None:
    streams = asyncio.run(strike(mesh, ("router", "policy")))

    # Policy may be back later than a new router waits for it; then it says why it refuses.
    assert {
        error.reason if isinstance(error, Refused) else type(error).__name__
        for error in failed(streams)
    } <= {"POLICY_STALE"}


def test_streams_outlive_the_router_and_are_reported_to_the_next(mesh: Mesh) -> None:
    async def run() -> list[Stream]:
        programs = Programs(mesh.home)
        await asyncio.to_thread(programs.wait_until_settled)
        long = Load(mesh.address, mesh.tenant("acme"), mesh.model, tokens=400)  # 8 s
        async with long.running(STREAMS):
            await long.until_streaming(STREAMS, within_s=5.0)
            long.stop()
            before = await asyncio.to_thread(lambda: programs.process("router").pid)
            await asyncio.to_thread(programs.kill, "router")
            await asyncio.to_thread(
                until, lambda: programs.control.states()["router"].pid not in {0, before}
            )
        return long.streams

    streams = asyncio.run(run())

    assert failed(streams) == []
    ids = {each.request_id for each in streams}
    log = mesh.home / "logs" / "router.log"
    until(lambda: ids <= reported(log.read_text()), within_s=5.0)


def reported(log: str) -> set[str]:
    lines = (json.loads(line) for line in log.splitlines() if '"request.ended"' in line)
    return {line["request_id"] for line in lines}


def frozen(
    mesh: Mesh, names: tuple[str, ...], *, deadline_s: float = 30.0, for_s: float = FROZEN_S
) -> list[Stream]:
    """Streams that began while they were frozen."""

    async def run() -> list[Stream]:
        programs = Programs(mesh.home)
        clock = asyncio.get_running_loop().time
        await asyncio.to_thread(programs.wait_until_settled)
        async with load(mesh, deadline_s=deadline_s) as streams:
            await streams.answered(since_s=0.0, within_s=5.0)
            await asyncio.to_thread(programs.freeze, *names)
            from_s = clock()
            try:
                await asyncio.sleep(for_s)
                to_s = clock()
            finally:
                await asyncio.to_thread(programs.thaw, *names)
            thawed_s = clock()
            await streams.answered(since_s=thawed_s, within_s=SETTLES_WITHIN_S)
            settled_s = clock()
            await streams.answered(since_s=settled_s, within_s=SETTLES_WITHIN_S)
        assert not failed([each for each in streams.streams if each.begun_s >= settled_s])
        return [each for each in streams.streams if each.began_within(from_s, to_s)]

    return asyncio.run(run())


@pytest.mark.parametrize(
    "names", [("policy",), ("telemetry",), ("policy", "telemetry")], ids="+".join
)
def test_frozen_nobody_notices(mesh: Mesh, names: tuple[str, ...]) -> None:
    assert failed(frozen(mesh, names)) == []


@pytest.mark.parametrize(
    "names", [("router",), ("router", "policy"), ("router", "telemetry")], ids="+".join
)
def test_for_a_router_that_is_frozen_for_a_while_callers_wait(
    mesh: Mesh, names: tuple[str, ...]
) -> None:
    during = frozen(mesh, names)

    assert during
    assert failed(during) == []


def test_a_router_that_is_frozen_for_long_is_not_waited_for(mesh: Mesh) -> None:
    during = frozen(mesh, ("router",), deadline_s=IMPATIENT_S, for_s=FOUND_OUT_S + 3.0)

    assert during
    first_s = min(each.begun_s for each in during)
    early = [each for each in during if each.begun_s < first_s + FOUND_OUT_S / 2]
    late = [each for each in during if each.begun_s > first_s + FOUND_OUT_S]
    assert late
    assert {type(each.error) for each in early} == {DeadlineExceeded}
    for each in late:
        assert isinstance(each.error, Unreachable)
        assert isinstance(each.error.__cause__, grpc.aio.AioRpcError)
        trailers: Any = each.error.__cause__.trailing_metadata()
        assert ("x-evenflow-reason", "NO_ENDPOINT") in [*trailers]


@pytest.mark.parametrize("names", [p for p in PAIRS if "envoy" in p] + [("envoy",)], ids="+".join)
def test_a_frozen_envoy_leaves_callers_their_deadline(mesh: Mesh, names: tuple[str, ...]) -> None:
    during = frozen(mesh, names, deadline_s=DEADLINE_S)

    assert {type(error) for error in failed(during)} <= {DeadlineExceeded}
