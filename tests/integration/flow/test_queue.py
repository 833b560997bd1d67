"""Two runtimes that run two requests each, and more callers than that."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from statistics import median

import pytest

from evenflow.inference.v1.workload_class_pb2 import WORKLOAD_CLASS_BATCH
from tests.integration.flow.asking import (
    Asked,
    Tenant,
    let_both_tenants_use_the_model,
    queued,
    tenant,
    until_queued,
)
from tests.integration.whole.mesh import Mesh, running
from tests.integration.whole.programs import until

AT_ONCE = 4
STEP_S = 0.02
SHORT = 25  # tokens, half a second
LONG = 1500  # tokens: nothing ends by itself while a test runs
AS_LONG_AS_ALLOWED = 256  # to globex
PATIENCE_S = 60.0
SIMULATED = {"RUNTIME_MAX_RUNNING": "2", "RUNTIME_SIMULATED_STEP_S": str(STEP_S)}


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with running(command="simulate", model="simulated", environ=SIMULATED) as started:
        let_both_tenants_use_the_model(started)
        yield started


@asynccontextmanager
async def flood(
    asking: Tenant, number: int, *, tokens: int, deadline_s: float = PATIENCE_S
) -> AsyncIterator[list[Asked]]:
    """Under way in the body; who is not answered at its end leaves."""
    asked = list[Asked]()
    async with asyncio.TaskGroup() as tasks:
        under_way = [
            tasks.create_task(asking.ask(tokens, deadline_s=deadline_s, into=asked))
            for _ in range(number)
        ]
        try:
            yield asked
        finally:
            for each in under_way:
                each.cancel()


async def until_answered(asked: list[Asked], number: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while sum(each.answered for each in asked) < number:  # noqa: ASYNC110 - it can only be asked
            await asyncio.sleep(STEP_S)


def test_what_is_too_much_waits_and_is_answered(mesh: Mesh) -> None:
    number = 6 * AT_ONCE

    async def scenario() -> list[Asked]:
        async with tenant(mesh, "acme") as acme, flood(acme, number, tokens=SHORT) as asked:
            await until_answered(asked, number)
            return asked

    asked = asyncio.run(scenario())

    stories = [mesh.explain(each.request_id) for each in asked]
    waited = [each for each in stories if each.queue_reason]
    assert len(waited) >= number // 2
    assert max(each.queue_wait.ToMilliseconds() for each in waited) > 1000 * SHORT * STEP_S
    assert all(each.queue_band == "interactive" for each in waited)


def test_nobody_waits_behind_a_flood(mesh: Mesh) -> None:
    flooded, number = 20 * AT_ONCE, 3

    async def scenario() -> int:
        async with (
            tenant(mesh, "acme") as acme,
            tenant(mesh, "globex") as globex,
            flood(acme, flooded, tokens=SHORT) as asked,
        ):
            await until_answered(asked, 1)
            for _ in range(number):
                assert (await globex.ask(SHORT)).answered
            return sum(not each.answered for each in asked)

    still_waiting = asyncio.run(scenario())

    # Each of globex's goes with the next slot. In the meantime of three answers in a row acme gets
    # no more than three for each of its slots and what was on its way.
    assert still_waiting > flooded // 2


def test_batches_wait_for_people_and_yet_go_on(mesh: Mesh) -> None:
    people, batches = 8 * AT_ONCE, 6 * AT_ONCE  # of these less than half are the batches' share

    async def scenario() -> tuple[list[Asked], list[Asked]]:
        asked, batch = list[Asked](), list[Asked]()
        async with (
            tenant(mesh, "acme") as acme,
            tenant(mesh, "globex") as globex,
            flood(globex, 3 * AT_ONCE, tokens=8 * SHORT) as before,
            asyncio.TaskGroup() as tasks,
        ):
            await asyncio.to_thread(until, lambda: queued(mesh) > 0)
            for _ in range(batches):
                as_batch = WORKLOAD_CLASS_BATCH
                tasks.create_task(acme.ask(SHORT, workload_class=as_batch, into=batch))
            for _ in range(people):
                tasks.create_task(globex.ask(SHORT, into=asked))
            await until_answered(before, len(before))
        return asked, batch

    asked, batch = asyncio.run(scenario())

    assert all(each.answered for each in (*asked, *batch))
    of_people, of_batches = ([each.ended_s or 0.0 for each in some] for some in (asked, batch))
    assert median(of_batches) > median(of_people)
    assert min(of_batches) < max(of_people), "a batch went before some of them"


def test_who_leaves_while_waiting_is_gone_at_once_and_takes_no_slot(mesh: Mesh) -> None:
    async def scenario() -> None:
        async with tenant(mesh, "acme") as acme, tenant(mesh, "globex") as globex:
            async with flood(acme, 4 * AT_ONCE, tokens=LONG):
                await until_queued(mesh, 2 * AT_ONCE + AT_ONCE // 2)
                async with flood(globex, 5, tokens=AS_LONG_AS_ALLOWED):
                    await until_queued(mesh, 2 * AT_ONCE + AT_ONCE // 2 + 5)
                await until_queued(mesh, 2 * AT_ONCE + AT_ONCE // 2)
            await until_queued(mesh, 0)
            assert (await globex.ask(1)).answered

    asyncio.run(scenario())
