"""A mesh whose router has seen no other pace than this test's: it remembers ten busy seconds."""

import asyncio
from collections.abc import Iterator

import pytest

from evenflow.errors import DeadlineExceeded
from tests.integration.flow.asking import Asked, tenant
from tests.integration.flow.test_queue import AT_ONCE, SHORT, SIMULATED, flood, until_answered
from tests.integration.whole.mesh import Mesh, running


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with running(command="simulate", model="simulated", environ=SIMULATED) as started:
        yield started


def test_a_deadline_that_cannot_be_met_is_refused_at_once(mesh: Mesh) -> None:
    deadline_s = 18.0

    async def scenario() -> Asked:
        async with (
            tenant(mesh, "acme") as acme,
            flood(acme, 20 * AT_ONCE, tokens=4 * SHORT, deadline_s=deadline_s) as asked,
        ):
            # Some that waited have gone, which tells the pace. There is more work left than time,
            # and all of it has earlier deadlines.
            await until_answered(asked, AT_ONCE)
            return await acme.ask(4 * SHORT, deadline_s=deadline_s)

    refused = asyncio.run(scenario())

    assert isinstance(refused.error, DeadlineExceeded)
    assert refused.error.reason == "DEADLINE_UNREACHABLE"
    assert (refused.error.retry_after_s or 0.0) >= 1.0
    assert refused.ended_s is not None
    assert refused.ended_s - refused.begun_s < deadline_s / 5
