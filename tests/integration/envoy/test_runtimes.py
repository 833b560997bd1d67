"""How Envoy reaches runtimes: the router's order, retries, ends of endpoints, deadlines."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from evenflow.inference.v1 import inference_service_pb2 as pb
from tests.fakes.envoy_router import let_go
from tests.fakes.scripted_runtime import delta, in_two_parts
from tests.integration.envoy.gateway import Gateway, running_gateway, trailers_of

pytestmark = pytest.mark.integration

ASK = pb.GenerateRequest(model="m", text="hi")


async def answers(_: Any) -> AsyncIterator[Any]:
    yield delta("a")
    yield delta("b")


async def is_full(context: Any) -> AsyncIterator[Any]:
    await context.abort(grpc.StatusCode.UNAVAILABLE, "draining")
    yield


async def stays_silent(_: Any) -> AsyncIterator[Any]:
    await asyncio.Event().wait()
    yield


async def stops_half_way(_: Any) -> AsyncIterator[Any]:
    yield delta("a")
    await asyncio.Event().wait()


async def texts(call: Any) -> list[str]:
    return [message.delta.text async for message in call]


def lets_go(gateway: Gateway, endpoints: list[str], **headers: str) -> None:
    async def answer(_: Any) -> Any:
        return let_go(",".join(endpoints), **headers)

    gateway.check.answer = answer


def test_the_first_address_is_asked_first(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            gateway.play(answers)
            for order in (gateway.addresses, gateway.addresses[::-1]) * 3:
                lets_go(gateway, order)
                assert await texts(gateway.stub.Generate(ASK)) == ["a", "b"]
            assert [len(runtime.calls) for runtime in gateway.runtimes] == [3, 3]

    asyncio.run(run())


def test_a_refusal_before_the_first_token_goes_to_the_next_address(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            first, second = gateway.runtimes
            first.script, second.script = is_full, answers
            assert await texts(gateway.stub.Generate(ASK)) == ["a", "b"]
            assert second.calls[0].metadata["x-envoy-attempt-count"] == "2"
            assert len(gateway.check.asked) == 1

    asyncio.run(run())


def test_a_runtime_that_is_gone_is_passed_over(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            gateway.play(answers)
            await gateway.runtime_servers[0].stop(0)
            for _ in range(3):
                assert await texts(gateway.stub.Generate(ASK)) == ["a", "b"]

    asyncio.run(run())


def test_nothing_is_tried_again_after_the_first_token(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            gateway.play(stops_half_way)
            call = gateway.stub.Generate(ASK)
            await call.read()
            await gateway.runtime_servers[0].stop(0)
            with pytest.raises(grpc.aio.AioRpcError):
                await call.read()
            assert not gateway.runtimes[1].calls

    asyncio.run(run())


def test_a_bug_is_not_tried_again(tmp_path: Path) -> None:
    async def fails(context: Any) -> AsyncIterator[Any]:
        await context.abort(grpc.StatusCode.INTERNAL, "internal error")
        yield

    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            gateway.play(fails)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await gateway.stub.Generate(ASK).read()
            assert caught.value.code() is grpc.StatusCode.INTERNAL
            assert not gateway.runtimes[1].calls

    asyncio.run(run())


def test_an_endpoint_that_leaves_keeps_its_streams(tmp_path: Path) -> None:
    removed = r"cluster\.runtime\.membership_change"
    go_on = asyncio.Event()

    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            first, second = gateway.runtimes
            first.script, second.script = in_two_parts(go_on), answers
            call = gateway.stub.Generate(ASK)
            await call.read()

            left = replace(gateway.snapshot, endpoints=gateway.snapshot.endpoints[1:])
            await gateway.publish(left, statistic=removed)
            assert await texts(gateway.stub.Generate(ASK)) == ["a", "b"]
            assert len(second.calls) == 1

            go_on.set()
            assert (await call.read()).delta.text == "b"
            assert await call.code() is grpc.StatusCode.OK

    asyncio.run(run())


def test_a_client_that_leaves_cancels_its_runtime(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            gateway.play(stops_half_way)
            call = gateway.stub.Generate(ASK)
            await call.read()
            call.cancel()
            async with asyncio.timeout(0.25):
                await gateway.runtimes[0].cancelled.wait()

    asyncio.run(run())


def test_envoy_ends_what_a_runtime_does_not(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            gateway.play(stays_silent)
            lets_go(gateway, gateway.addresses, x_envoy_upstream_rq_timeout_ms="50")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await gateway.stub.Generate(ASK, timeout=5).read()
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert trailers_of(caught.value)["x-evenflow-reason"] == "DEADLINE"
            async with asyncio.timeout(0.25):
                await gateway.runtimes[0].cancelled.wait()
            assert not gateway.runtimes[1].calls

    asyncio.run(run())


def test_the_routers_deadline_overwrites_the_clients(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            left_s: list[float] = []

            async def says_how_long(context: Any) -> AsyncIterator[Any]:
                left_s.append(context.time_remaining())
                yield delta("a")

            gateway.play(says_how_long)
            lets_go(gateway, gateway.addresses, grpc_timeout="2000m")
            await gateway.stub.Generate(ASK, timeout=50).read()
            assert 1.0 < left_s[0] <= 2.0

    asyncio.run(run())
