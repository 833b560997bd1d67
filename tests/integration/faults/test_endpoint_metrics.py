"""To one who only reads metrics: which endpoints are silent or hang, and that they are back."""

import asyncio
import signal
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.faults.streams import Load
from tests.integration.whole.mesh import Mesh, running
from tests.integration.whole.programs import Programs, until

SEEN_WITHIN_S = 10.0
SIMULATED = {
    "RUNTIME_MAX_RUNNING": "64",
    "RUNTIME_SIMULATED_STEP_S": "0.04",
    "RUNTIME_SIMULATED_HANG_ON_SIGNAL": "true",
}


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with running(command="simulate", model="simulated", environ=SIMULATED) as started:
        yield started


def endpoints(mesh: Mesh) -> dict[str, int]:
    """By state; those that no endpoint is in are left out."""
    return {
        sample.labels["state"]: int(sample.value)
        for family in text_string_to_metric_families(mesh.metrics())
        if family.name == "evenflow_endpoints"
        for sample in family.samples
        if sample.value
    }


def test_a_silent_runtime_is_counted_as_unreachable(mesh: Mesh) -> None:
    programs = Programs(mesh.home)
    until(lambda: endpoints(mesh) == {"ready": 2}, within_s=SEEN_WITHIN_S)

    programs.freeze("runtime-1")
    until(lambda: endpoints(mesh) == {"ready": 1, "unreachable": 1}, within_s=SEEN_WITHIN_S)
    programs.thaw("runtime-1")

    until(lambda: endpoints(mesh) == {"ready": 2}, within_s=SEEN_WITHIN_S)


def test_a_runtime_whose_engine_hangs_is_counted_as_stalled(mesh: Mesh) -> None:
    struck = Programs(mesh.home).process("runtime-1")

    async def hang() -> None:
        load = Load(mesh.address, mesh.tenant("acme"), mesh.model, tokens=30)
        async with load.running(8):
            await load.answered(since_s=0.0, within_s=SEEN_WITHIN_S)
            struck.send_signal(signal.SIGUSR1)
            stalled = {"ready": 1, "stalled": 1}
            await asyncio.to_thread(
                until, lambda: endpoints(mesh) == stalled, within_s=SEEN_WITHIN_S
            )
            struck.send_signal(signal.SIGUSR1)

    asyncio.run(hang())

    until(lambda: endpoints(mesh) == {"ready": 2}, within_s=SEEN_WITHIN_S)


def test_nothing_is_claimed_while_no_router_says(mesh: Mesh) -> None:
    programs = Programs(mesh.home)
    until(lambda: endpoints(mesh) == {"ready": 2}, within_s=SEEN_WITHIN_S)

    programs.control.stop("router")
    until(lambda: endpoints(mesh) == {}, within_s=SEEN_WITHIN_S)
    programs.control.start("router")

    until(lambda: endpoints(mesh) == {"ready": 2}, within_s=2 * SEEN_WITHIN_S)
