"""Hedging in the whole mesh: what one runtime is late with the other answers, and frees the first.

The runtime's engine stands still while a request is under way there; the mesh has learnt before how
long first tokens take.
"""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from evenflow.client import Client, chat_request
from evenflow.inference.v1 import inference_service_pb2 as pb
from evenflow.router.v1 import router_service_pb2 as router_pb
from tests.integration.whole.mesh import Mesh, running
from tests.integration.whole.programs import Programs, until
from tests.integration.whole.test_cancel_and_deadline import NOTICED_WITHIN_S, States, watching

FREED_WITHIN_S = 0.25
LEARNT_FROM = 150
AT_ONCE = 10
SHORT = pb.Sampling(max_output_tokens=4, ignore_eos=True)
ENVIRON = {
    "RUNTIME_SIMULATED_STEP_S": "0.02",
    "RUNTIME_SIMULATED_HANG_ON_SIGNAL": "true",
}


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with running(command="simulate", model="simulated", environ=ENVIRON) as started:
        yield started


def first_picked(mesh: Mesh) -> str:
    """Where a request goes when nothing is under way: ties go to the lower address."""
    return min(mesh.runtimes)


@contextmanager
def standing_still(mesh: Mesh, address: str) -> Iterator[None]:
    """The engine of one runtime; its process answers as ever."""
    process = Programs(mesh.home).process(f"runtime-{mesh.runtimes.index(address) + 1}")
    process.send_signal(signal.SIGUSR1)
    try:
        yield
    finally:
        process.send_signal(signal.SIGUSR1)


async def learn(mesh: Mesh, client: Client) -> None:
    left = iter(range(LEARNT_FROM))

    async def ask() -> None:
        for _ in left:
            await client.chat(mesh.model, "hi", sampling=SHORT)

    async with asyncio.TaskGroup() as callers:
        for _ in range(AT_ONCE):
            callers.create_task(ask())
    await asyncio.to_thread(until, mesh.is_idle)


def ended(mesh: Mesh, request_id: str) -> router_pb.ExplainResponse:
    """What the router knows once Envoy has told it of the end."""
    until(lambda: mesh.explain(request_id).HasField("outcome") and mesh.is_idle())
    return mesh.explain(request_id)


async def one_idle(states: States, address: str) -> None:
    """A runtime has no request and no KV block in use."""

    def idle(*_: int) -> bool:
        state = states.latest[address]
        return not state.running + state.waiting and state.kv_blocks_free == state.kv_blocks_total

    await states.until(idle, FREED_WITHIN_S + NOTICED_WITHIN_S)


async def hedged_once(mesh: Mesh, client: Client, states: States) -> router_pb.ExplainResponse:
    """Asks while the runtime that is picked stands still."""
    slow = first_picked(mesh)
    with standing_still(mesh, slow):
        stream = client.generate(chat_request(mesh.model, "hi", sampling=SHORT), deadline_s=10)
        started = await anext(stream)
        assert isinstance(started, pb.Started)
        await one_idle(states, slow)
        events = [event async for event in stream]
    assert isinstance(events[-1], pb.Finished)
    assert started.endpoint != slow
    return await asyncio.to_thread(ended, mesh, started.request_id)


def test_the_other_runtime_answers_and_the_slow_one_is_freed(mesh: Mesh) -> None:
    async def scenario() -> list[router_pb.ExplainResponse]:
        async with (
            watching(mesh) as states,
            Client(mesh.address, certificate_folder=mesh.tenant("acme")) as client,
        ):
            await learn(mesh, client)
            return [await hedged_once(mesh, client, states) for _ in range(4)]

    explained = asyncio.run(scenario())

    for each in explained:
        assert each.hedge_sent
        assert each.winning_attempt == 2
        assert each.hedge_delay.ToTimedelta() < each.outcome.time_to_first_token.ToTimedelta()
        assert each.outcome.attempts == 2
        assert each.outcome.endpoint != first_picked(mesh)
        assert each.outcome.output_tokens == 4
        # Three failures would open the circuit; being late is none.
        assert [candidate.left_out for candidate in each.candidates] == ["", ""]
    until(lambda: counted(mesh.metrics()) >= len(explained))


def counted(metrics: str) -> float:
    """Hedges that won."""
    wanted = [
        line
        for line in metrics.splitlines()
        if line.startswith("evenflow_hedges_total") and 'outcome="won"' in line
    ]
    return sum(float(line.rpartition(" ")[2]) for line in wanted)


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_openais_callers_are_hedged_too(mesh: Mesh, stream: bool) -> None:
    body = {
        "model": mesh.model,
        "messages": [{"role": "user", "content": "hi"}],
        "stream": stream,
        "max_tokens": 4,
        "ignore_eos": True,
    }
    headers = {"authorization": f"Bearer {mesh.api_key('acme')}"}

    async def scenario() -> httpx.Response:
        async with Client(mesh.address, certificate_folder=mesh.tenant("acme")) as client:
            await learn(mesh, client)
        async with httpx.AsyncClient(trust_env=False, timeout=10) as http:
            with standing_still(mesh, first_picked(mesh)):
                url = f"{mesh.frontend}/v1/chat/completions"
                return await http.post(url, json=body, headers=headers)

    response = asyncio.run(scenario())

    assert response.status_code == 200
    explained = ended(mesh, response.headers["x-evenflow-request-id"])
    assert explained.hedge_sent
    assert explained.winning_attempt == 2
    assert explained.outcome.output_tokens == 4
