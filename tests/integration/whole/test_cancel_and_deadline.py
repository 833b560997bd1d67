"""Who leaves or runs out of time frees the engine within 250 ms, before and after the first token.

On the simulated engine, whose times are known.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import httpx
import pytest

from evenflow.client import Client, chat_request
from evenflow.errors import DeadlineExceeded
from evenflow.inference.v1 import inference_service_pb2 as pb
from evenflow.runtime.v1 import runtime_service_pb2 as runtime_pb
from tests.integration.whole.mesh import Mesh

FREED_WITHIN_S = 0.25
NOTICED_WITHIN_S = 0.1  # a change to idle is told at once, and the machine is busy
LONG = pb.Sampling(max_output_tokens=400, ignore_eos=True)


class States:
    """The runtimes' own words, as they come."""

    def __init__(self) -> None:
        self.latest: dict[str, runtime_pb.WatchStateResponse] = {}
        self._changed = asyncio.Condition()

    async def follow(self, address: str, stub: Any) -> None:
        async for state in stub.WatchState(runtime_pb.WatchStateRequest()):
            async with self._changed:
                self.latest[address] = state
                self._changed.notify_all()

    async def until(self, reached: Callable[[int, int], bool], within_s: float) -> None:
        """`reached` takes the requests running or waiting, and the KV blocks in use."""
        async with asyncio.timeout(within_s), self._changed:
            await self._changed.wait_for(lambda: self.latest and reached(*self._sums()))

    def _sums(self) -> tuple[int, int]:
        states = self.latest.values()
        return (
            sum(state.running + state.waiting for state in states),
            sum(state.kv_blocks_total - state.kv_blocks_free for state in states),
        )


def idle(requests: int, kv_blocks_used: int) -> bool:
    return requests == 0 and kv_blocks_used == 0


def busy(requests: int, kv_blocks_used: int) -> bool:
    return requests > 0 and kv_blocks_used > 0


@asynccontextmanager
async def watching(mesh: Mesh) -> AsyncIterator[States]:
    states = States()
    async with asyncio.TaskGroup() as tasks, mesh.runtime_stubs() as stubs:
        watches = [tasks.create_task(states.follow(at, stub)) for at, stub in stubs.items()]
        await states.until(idle, 5)
        try:
            yield states
        finally:
            for watch in watches:
                watch.cancel()


def request(mesh: Mesh, *, slow_prefill: bool) -> pb.GenerateRequest:
    # The simulation's prefill takes seconds for a prompt of this length.
    words = mesh.slow_prompt_words if slow_prefill else 5
    return chat_request(mesh.model, "word " * words, sampling=LONG)


@pytest.mark.parametrize("slow_prefill", [True, False], ids=["before first token", "mid-stream"])
def test_a_cancel_frees_the_engine(simulated_mesh: Mesh, slow_prefill: bool) -> None:
    mesh = simulated_mesh

    async def scenario() -> None:
        async with (
            watching(mesh) as states,
            Client(mesh.address, certificate_folder=mesh.tenant("acme")) as client,
        ):
            stream = client.generate(request(mesh, slow_prefill=slow_prefill))
            if slow_prefill:
                async with asyncio.TaskGroup() as tasks:
                    first = tasks.create_task(anext(stream))
                    await states.until(busy, 5)
                    first.cancel()
            else:
                await anext(stream)
                await states.until(busy, 5)
                await stream.aclose()
            await states.until(idle, FREED_WITHIN_S + NOTICED_WITHIN_S)

    asyncio.run(scenario())


@pytest.mark.parametrize("slow_prefill", [True, False], ids=["before first token", "mid-stream"])
def test_a_deadline_frees_the_engine_and_says_so(simulated_mesh: Mesh, slow_prefill: bool) -> None:
    mesh = simulated_mesh

    async def scenario() -> None:
        async with (
            watching(mesh) as states,
            Client(mesh.address, certificate_folder=mesh.tenant("acme")) as client,
        ):
            with pytest.raises(DeadlineExceeded) as caught:
                async for _ in client.generate(
                    request(mesh, slow_prefill=slow_prefill), deadline_s=0.6
                ):
                    pass
            assert bool(caught.value.text) is not slow_prefill
            await states.until(idle, FREED_WITHIN_S + NOTICED_WITHIN_S)

    asyncio.run(scenario())


def test_a_deadline_is_told_by_the_mesh_and_not_only_by_the_clients_own_clock(
    simulated_mesh: Mesh,
) -> None:
    """A raw gRPC client over HTTP/2 that sets grpc-timeout and keeps no timer of its own."""
    mesh = simulated_mesh
    message = request(mesh, slow_prefill=False).SerializeToString()
    headers = {
        "content-type": "application/grpc-web+proto",
        "grpc-timeout": "600m",
        "authorization": f"Bearer {mesh.api_key('acme')}",
    }
    with httpx.Client(trust_env=False, timeout=10) as client:
        response = client.post(
            f"{mesh.frontend}/evenflow.inference.v1.InferenceService/Generate",
            content=b"\0" + len(message).to_bytes(4, "big") + message,
            headers=headers,
        )

    code = grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
    assert f"grpc-status:{code}".encode() in response.content
    assert b"DEADLINE" in response.content


def test_an_openai_client_that_leaves_frees_the_engine(simulated_mesh: Mesh) -> None:
    mesh = simulated_mesh
    body = {
        "model": mesh.model,
        "messages": [{"role": "user", "content": "word " * 5}],
        "stream": True,
        "max_tokens": 400,
        "ignore_eos": True,
    }
    headers = {"authorization": f"Bearer {mesh.api_key('acme')}"}

    async def scenario() -> None:
        async with watching(mesh) as states, httpx.AsyncClient(trust_env=False) as client:
            url = f"{mesh.frontend}/v1/chat/completions"
            async with client.stream("POST", url, json=body, headers=headers) as response:
                assert response.status_code == 200
                await anext(response.aiter_lines())
                await states.until(busy, 5)
            await states.until(idle, FREED_WITHIN_S + NOTICED_WITHIN_S)

    asyncio.run(scenario())


def test_openai_chunks_arrive_as_they_are_made(simulated_mesh: Mesh) -> None:
    mesh = simulated_mesh
    body = {
        "model": mesh.model,
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "max_tokens": 50,
        "ignore_eos": True,
    }
    headers = {"authorization": f"Bearer {mesh.api_key('acme')}"}

    async def scenario() -> list[float]:
        loop = asyncio.get_running_loop()
        async with (
            httpx.AsyncClient(trust_env=False, timeout=30) as client,
            client.stream(
                "POST", f"{mesh.frontend}/v1/chat/completions", json=body, headers=headers
            ) as response,
        ):
            assert response.headers["content-type"].startswith("text/event-stream")
            lines = response.aiter_lines()
            return [loop.time() async for line in lines if line.startswith("data: {")]

    arrivals_s = asyncio.run(scenario())

    assert len(arrivals_s) >= 50
    assert arrivals_s[-1] - arrivals_s[0] > 0.5 * 50 * mesh.step_s
