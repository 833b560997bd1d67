"""What Envoy does with the router's order to hedge, and what it says of it afterwards."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy.data.accesslog.v3.accesslog_pb2 import AccessLogType

from evenflow.inference.v1 import inference_service_pb2 as pb
from services.router.core.endings import Ended
from services.router.core.hedge_endings import resolved
from services.router.core.hedging import HedgePlan
from services.router.inbound.log_entries import Arm, arm, ended
from tests.fakes.envoy_router import let_go
from tests.fakes.scripted_runtime import Script, chunk, completion, delta, done
from tests.integration.envoy.gateway import Gateway, running_gateway

pytestmark = pytest.mark.integration

ASK = pb.GenerateRequest(model="m", text="hi")
DELAY_S = 0.15
SOON_S, LATE_S = 0.01, 0.5
USAGE = (("x-evenflow-engine", "simulated"),)


def generates(after_s: float, *, go_on: asyncio.Event | None = None) -> Script:
    return _first_after(after_s, (delta("a"), delta("b")), go_on)


def _first_after(
    after_s: float, messages: tuple[Any, ...], go_on: asyncio.Event | None = None
) -> Script:
    """As our runtimes do: headers with the first token, and the attempt in them unless it is 1."""

    async def script(context: Any) -> AsyncIterator[Any]:
        attempt = dict(context.invocation_metadata())["x-envoy-attempt-count"]
        await asyncio.sleep(after_s)
        await context.send_initial_metadata(
            () if attempt == "1" else (("x-evenflow-attempt", attempt),)
        )
        first, *rest = messages
        yield first
        if go_on is not None:
            await go_on.wait()
        for each in rest:
            yield each
        context.set_trailing_metadata(USAGE)

    return script


async def refuses(context: Any) -> AsyncIterator[Any]:
    await context.abort(grpc.StatusCode.UNAVAILABLE, "full")
    yield


def hedges(gateway: Gateway, **headers: str) -> None:
    """With the headers that services/router/inbound/check.py writes."""

    async def answer(question: Any) -> Any:
        ordered = {
            "x_evenflow_request_id": question.headers["x-request-id"],
            "x_envoy_upstream_rq_timeout_ms": "5000",
            "x_envoy_upstream_rq_per_try_timeout_ms": str(round(DELAY_S * 1000)),
            "x_envoy_hedge_on_per_try_timeout": "true",
            "x_envoy_max_retries": "1",
            **headers,
        }
        return let_go(",".join(gateway.addresses), **ordered)

    gateway.check.answer = answer


def plays(gateway: Gateway, first: Script, second: Script) -> None:
    gateway.runtimes[0].script, gateway.runtimes[1].script = first, second


def calls(gateway: Gateway) -> list[int]:
    return [len(runtime.calls) for runtime in gateway.runtimes]


async def texts(call: Any) -> list[str]:
    return [message.delta.text async for message in call]


async def reported(gateway: Gateway) -> tuple[Arm | None, Ended]:
    """The second arm as it was sent, and the end; they come on streams of their own."""
    sent, end = None, None
    while end is None or (end.attempts > 1 and sent is None):
        entry = await gateway.log.entry()
        if entry.common_properties.access_log_type == AccessLogType.DownstreamEnd:
            plan = HedgePlan(gateway.addresses[1], DELAY_S)
            end = resolved(ended(entry), plan, gateway.addresses, queue_wait_s=0.0)
        else:
            sent = arm(entry)
            assert sent is not None
    return sent, end


def test_a_late_first_token_comes_from_the_second_address(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            hedges(gateway)
            plays(gateway, generates(60), generates(SOON_S))
            assert await texts(gateway.stub.Generate(ASK, timeout=5)) == ["a", "b"]
            async with asyncio.timeout(0.25):
                await gateway.runtimes[0].cancelled.wait()
            sent, end = await reported(gateway)
            assert sent == Arm(end.request_id, gateway.addresses[1])
            assert (end.endpoint, end.attempts) == (gateway.addresses[1], 2)
            assert end.hedge_won

    asyncio.run(run())


def test_whoever_answers_first_is_named_even_if_a_hedge_was_sent(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            hedges(gateway)
            plays(gateway, generates(2 * DELAY_S), generates(60))
            assert await texts(gateway.stub.Generate(ASK, timeout=5)) == ["a", "b"]
            async with asyncio.timeout(0.25):
                await gateway.runtimes[1].cancelled.wait()
            sent, end = await reported(gateway)
            assert sent is not None
            assert (end.endpoint, end.attempts) == (gateway.addresses[0], 2)
            assert end.hedged
            assert end.answered_attempt == 1
            assert end.first_token_s is not None
            assert end.first_token_s >= 2 * DELAY_S

    asyncio.run(run())


def test_a_caller_who_leaves_after_a_lost_hedge_leaves_the_winners_name(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            hedges(gateway)
            plays(gateway, generates(2 * DELAY_S, go_on=asyncio.Event()), generates(60))
            call = gateway.stub.Generate(ASK, timeout=5)
            await call.read()
            call.cancel()
            _, end = await reported(gateway)
            assert (end.endpoint, end.answered_attempt) == (gateway.addresses[0], 1)

    asyncio.run(run())


def test_a_first_token_in_time_is_not_hedged(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            hedges(gateway)
            slowly = asyncio.Event()
            plays(gateway, generates(SOON_S, go_on=slowly), generates(SOON_S))
            call = gateway.stub.Generate(ASK, timeout=5)
            await call.read()
            await asyncio.sleep(2 * DELAY_S)  # what comes after the first token may take its time
            slowly.set()
            assert (await call.read()).delta.text == "b"
            assert await call.code() is grpc.StatusCode.OK
            assert calls(gateway) == [1, 0]

    asyncio.run(run())


def test_two_late_arms_are_left_to_go_on_and_there_is_no_third(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            hedges(gateway)
            plays(gateway, generates(60), generates(4 * DELAY_S))
            assert await texts(gateway.stub.Generate(ASK, timeout=5)) == ["a", "b"]
            assert calls(gateway) == [1, 1]

    asyncio.run(run())


def test_the_deadline_ends_both_arms(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            hedges(gateway, x_envoy_upstream_rq_timeout_ms=str(round(3000 * DELAY_S)))
            plays(gateway, generates(60), generates(60))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await gateway.stub.Generate(ASK, timeout=5).read()
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            async with asyncio.timeout(0.25):
                for runtime in gateway.runtimes:
                    await runtime.cancelled.wait()
            _, end = await reported(gateway)
            assert end.hedged
            assert not end.hedge_won

    asyncio.run(run())


def test_a_delay_beyond_the_deadline_is_none(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            hedges(gateway, x_envoy_upstream_rq_timeout_ms=str(round(500 * DELAY_S)))
            plays(gateway, generates(60), generates(60))
            with pytest.raises(grpc.aio.AioRpcError):
                await gateway.stub.Generate(ASK, timeout=5).read()
            assert calls(gateway) == [1, 0]

    asyncio.run(run())


def test_a_second_arm_that_is_refused_leaves_the_first_alone(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            hedges(gateway)
            plays(gateway, generates(LATE_S), refuses)
            assert await texts(gateway.stub.Generate(ASK, timeout=5)) == ["a", "b"]

    asyncio.run(run())


@pytest.mark.parametrize("gone", [True, False], ids=["gone", "refuses"])
def test_a_retry_is_still_made_and_is_no_hedge(tmp_path: Path, gone: bool) -> None:
    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            hedges(gateway)
            plays(gateway, refuses, generates(2 * DELAY_S))
            if gone:
                await gateway.runtime_servers[0].stop(0)
            assert await texts(gateway.stub.Generate(ASK, timeout=5)) == ["a", "b"]
            assert calls(gateway)[1] == 1
            _, end = await reported(gateway)
            assert (end.attempts, end.endpoint) == (2, gateway.addresses[1])
            assert not end.hedged

    asyncio.run(run())


def test_openais_answers_are_hedged_too(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            hedges(gateway)
            plays(gateway, _first_after(60, (completion("a"),)), whole("b"))
            answer = await gateway.chat()
            assert answer.json()["choices"][0]["message"]["content"] == "b"
            _, end = await reported(gateway)
            assert end.hedge_won

            streamed = (chunk("b"), done())
            plays(gateway, _first_after(60, streamed), _first_after(SOON_S, streamed))
            assert '"content": "b"' in (await gateway.chat(stream=True)).text
            _, end = await reported(gateway)
            assert end.hedge_won

    asyncio.run(run())


def whole(text: str) -> Script:
    return _first_after(SOON_S, (completion(text),))


async def stays_late(_: Any) -> AsyncIterator[Any]:
    await asyncio.sleep(LATE_S)
    yield delta("a")


async def completes_late(_: Any) -> AsyncIterator[Any]:
    await asyncio.sleep(LATE_S)
    yield completion("a")


def test_a_client_cannot_order_a_hedge_or_forge_an_attempt(tmp_path: Path) -> None:
    claimed = {
        "x-envoy-upstream-rq-per-try-timeout-ms": "10",
        "x-envoy-hedge-on-per-try-timeout": "true",
        "x-envoy-max-retries": "9",
        "x-envoy-retry-on": "5xx",
        "x-envoy-attempt-count": "7",
        "x-evenflow-attempt": "7",
    }

    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            gateway.play(stays_late)
            call = gateway.stub.Generate(ASK, timeout=5, metadata=tuple(claimed.items()))
            assert await texts(call) == ["a"]
            gateway.play(completes_late)
            body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
            await gateway.http.post("/v1/chat/completions", json=body, headers=claimed)
            assert calls(gateway) == [2, 0]
            for call in gateway.runtimes[0].calls:
                assert call.metadata["x-envoy-attempt-count"] == "1"
                assert "x-evenflow-attempt" not in call.metadata

    asyncio.run(run())
