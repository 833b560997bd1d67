"""A good change is taken, a bad one is survived, a half-written one is never seen."""

import asyncio
from typing import Self

from structlog.testing import capture_logs

from services.policy.core.tenants import Policy
from services.policy.outbound.reloading import POLL_S, follow
from tests import virtual_time
from tests.fakes.policy_source import FakePolicySource
from tests.unit.policy.policies import policy

FIRST, SECOND = policy("v1", "acme"), policy("v2", "acme", "globex")
SETTLED_S = 2.5 * POLL_S


class Following:
    """What has come of a source while it was followed."""

    def __init__(self) -> None:
        self.source = FakePolicySource(FIRST)
        self.took: list[Policy] = []
        self.refused: list[str] = []

    async def __aenter__(self) -> Self:
        self._tasks = asyncio.TaskGroup()
        await self._tasks.__aenter__()
        self._task = self._tasks.create_task(
            follow(
                self.source,
                loaded=self.source.stamp(),
                took=self.took.append,
                refused=self.refused.append,
            )
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await self._tasks.__aexit__(None, None, None)


def test_a_change_is_taken_within_half_a_second() -> None:
    async def scenario() -> list[Policy]:
        async with Following() as following:
            following.source.write(SECOND)
            await asyncio.sleep(0.5)
            return following.took

    assert virtual_time.run(scenario()) == [SECOND]


def test_an_unchanged_file_is_not_read_again() -> None:
    async def scenario() -> int:
        async with Following() as following:
            await asyncio.sleep(60)
            return following.source.loads

    assert virtual_time.run(scenario()) == 0


def test_a_file_is_left_alone_while_somebody_writes_it() -> None:
    async def scenario() -> tuple[int, list[Policy]]:
        async with Following() as following:
            following.source.under_way = True
            await asyncio.sleep(10)
            loads = following.source.loads
            following.source.under_way = False
            following.source.write(SECOND)
            await asyncio.sleep(SETTLED_S)
            return loads, following.took

    assert virtual_time.run(scenario()) == (0, [SECOND])


def test_a_bad_file_is_refused_once_and_the_next_good_one_taken() -> None:
    async def scenario() -> Following:
        async with Following() as following:
            following.source.spoil("half a file")
            await asyncio.sleep(10)
            following.source.write(SECOND)
            await asyncio.sleep(SETTLED_S)
            return following

    with capture_logs() as logs:
        following = virtual_time.run(scenario())

    assert following.refused == ["line 1, column 1: half a file"]
    assert following.took == [SECOND]
    assert [entry["event"] for entry in logs] == ["policy.refused", "policy.loaded"]


def test_a_file_that_vanishes_is_survived() -> None:
    async def scenario() -> Following:
        async with Following() as following:
            following.source.remove()
            await asyncio.sleep(10)
            return following

    following = virtual_time.run(scenario())

    assert (len(following.refused), following.took) == (1, [])
