"""The wall around a pool in Envoy itself, when it is left to choose: nobody crosses it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from evenflow.inference.v1 import inference_service_pb2 as pb
from tests.fakes.envoy_router import let_go
from tests.fakes.scripted_runtime import delta
from tests.integration.envoy.gateway import Gateway, running_gateway

pytestmark = pytest.mark.integration

ASK = pb.GenerateRequest(model="m", text="hi")
GONE = "127.0.0.1:1"  # an address that has left


async def answers(_: Any) -> AsyncIterator[Any]:
    yield delta("a")


async def is_full(context: Any) -> AsyncIterator[Any]:
    await context.abort(grpc.StatusCode.UNAVAILABLE, "draining")
    yield


async def asked(gateway: Gateway, endpoints: str, **headers: str) -> list[int]:
    """Sends six requests; how many calls each runtime has seen since."""
    before = [len(each.calls) for each in gateway.runtimes]

    async def answer(_: Any) -> Any:
        return let_go(endpoints, **headers)

    gateway.check.answer = answer
    for _ in range(6):
        with suppress(grpc.aio.AioRpcError):
            assert [each.delta.text async for each in gateway.stub.Generate(ASK)] == ["a"]
    return [len(each.calls) - was for each, was in zip(gateway.runtimes, before, strict=True)]


def test_no_choice_of_envoys_crosses_the_wall(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            gateway.play(answers)
            vault = gateway.snapshot.endpoints[1]
            await gateway.publish(
                replace(gateway.snapshot, pools={vault: "vault"}),
                statistic="cluster.runtime.update_success",
            )

            assert await asked(gateway, GONE) == [6, 0]
            assert await asked(gateway, GONE, x_evenflow_pool="vault") == [0, 6]
            assert await asked(gateway, GONE, x_evenflow_pool="unknown") == [0, 0]
            assert await asked(gateway, gateway.addresses[0]) == [6, 0]
            assert await asked(gateway, str(vault), x_evenflow_pool="vault") == [0, 6]

    asyncio.run(run())


def test_no_retry_crosses_the_wall(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            gateway.play(is_full)
            vault = gateway.snapshot.endpoints[1]
            await gateway.publish(
                replace(gateway.snapshot, pools={vault: "vault"}),
                statistic="cluster.runtime.update_success",
            )

            shared, crossed = await asked(gateway, gateway.addresses[0])
            assert shared > 6  # it was tried again, there
            assert crossed == 0
            crossed, own = await asked(gateway, str(vault), x_evenflow_pool="vault")
            assert own > 6
            assert crossed == 0

    asyncio.run(run())
