"""Envoy's retries: in the router's order, before the first token, and no more than the budget."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.router.inbound.resources.clusters import RETRIES_ALWAYS, RETRIES_PERCENT
from tests.integration.envoy.gateway import Gateway, running_gateway
from tests.integration.envoy.test_runtimes import ASK, answers, is_full, lets_go, texts

pytestmark = pytest.mark.integration

PATIENCE_S = 30.0
MANY = 240
BUDGET = int(MANY * RETRIES_PERCENT / 100)
assert BUDGET > RETRIES_ALWAYS, "else it would not be the share that is tested"
FEW = 20
GIVEN_UP = r"cluster\.runtime\.upstream_rq_retry_overflow"


class Waves:
    """Runtimes that hold every attempt, and refuse all that they hold when told to."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._refuse = asyncio.Event()

    async def script(self, context: Any) -> AsyncIterator[Any]:
        await self._refuse.wait()
        await context.abort(grpc.StatusCode.UNAVAILABLE, "full")
        yield

    def attempts(self) -> int:
        return sum(len(runtime.calls) for runtime in self._gateway.runtimes)

    async def until_held(self, attempts: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while self.attempts() < attempts:  # noqa: ASYNC110 - a script can only be asked
                await asyncio.sleep(0.01)

    def refuse(self) -> None:
        """What comes later waits for the next time."""
        self._refuse.set()
        self._refuse = asyncio.Event()


async def code_of(gateway: Gateway) -> grpc.StatusCode:
    try:
        await texts(gateway.stub.Generate(ASK))
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def until_each_was_retried_or_given_up(gateway: Gateway, waves: Waves) -> int:
    """How many were retried, after all first attempts were refused."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            retries = waves.attempts() - MANY
            if retries + await gateway.envoy.statistic(GIVEN_UP) >= MANY:
                return retries
            await asyncio.sleep(0.02)


async def until_it_serves(gateway: Gateway) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await code_of(gateway) is not grpc.StatusCode.OK:  # noqa: ASYNC110 - it can only be asked
            await asyncio.sleep(0.02)
    for runtime in gateway.runtimes:
        runtime.calls.clear()


def test_each_attempt_goes_where_the_order_says(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_gateway(tmp_path, runtimes=3) as gateway:
            await until_it_serves(gateway)
            gateway.play(is_full)
            a, b, c = gateway.addresses
            for order, expected in (
                ([a, b, c], [1, 1, 1]),
                ([c, b, c], [0, 1, 2]),
                ([b, b, b], [0, 3, 0]),
            ):
                lets_go(gateway, order)
                assert await code_of(gateway) is grpc.StatusCode.UNAVAILABLE
                assert [len(runtime.calls) for runtime in gateway.runtimes] == expected
                for runtime in gateway.runtimes:
                    runtime.calls.clear()

    asyncio.run(run())


def test_all_that_waits_at_a_runtime_that_dies_is_answered_by_another(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            await until_it_serves(gateway)
            waves = Waves(gateway)
            gateway.runtimes[0].script = waves.script
            gateway.runtimes[1].script = answers
            lets_go(gateway, gateway.addresses)
            async with asyncio.TaskGroup() as tasks:
                asked = [tasks.create_task(code_of(gateway)) for _ in range(FEW)]
                await waves.until_held(FEW)
                await gateway.runtime_servers[0].stop(0)
            assert {each.result() for each in asked} == {grpc.StatusCode.OK}
            assert len(gateway.runtimes[1].calls) == FEW

    asyncio.run(run())


def test_where_all_refuse_no_more_is_retried_than_the_budget(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            await until_it_serves(gateway)
            waves = Waves(gateway)
            gateway.play(waves.script)
            lets_go(gateway, gateway.addresses)
            async with asyncio.TaskGroup() as tasks:
                asked = [tasks.create_task(code_of(gateway)) for _ in range(MANY)]
                await waves.until_held(MANY)
                waves.refuse()
                retries = await until_each_was_retried_or_given_up(gateway, waves)
                assert 0 < retries <= BUDGET
                while not all(each.done() for each in asked):
                    waves.refuse()
                    await asyncio.sleep(0.05)
            assert {each.result() for each in asked} == {grpc.StatusCode.UNAVAILABLE}
            assert waves.attempts() <= MANY + BUDGET + RETRIES_ALWAYS, "the few left may try again"

    asyncio.run(run())
