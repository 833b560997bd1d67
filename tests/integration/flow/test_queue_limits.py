"""A queue with room for one."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from evenflow.errors import Refused
from tests.integration.flow.asking import SEEN_WITHIN_S, Asked, queued, tenant
from tests.integration.whole.mesh import Mesh, running

LONG = 1500
AT_ONCE_S = 2.0  # on a busy machine; 50 ms on a quiet one
SIMULATED = {"RUNTIME_MAX_RUNNING": "1", "ROUTER_QUEUE_LIMIT": "1"}


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with running(command="simulate", model="simulated", environ=SIMULATED) as started:
        yield started


async def chat(mesh: Mesh, *, stream: bool) -> httpx.Response:
    body: dict[str, Any] = {
        "model": mesh.model,
        "messages": [{"role": "user", "content": "hi"}],
        "stream": stream,
    }
    headers = {"authorization": f"Bearer {mesh.api_key('acme')}"}
    async with httpx.AsyncClient(trust_env=False, timeout=AT_ONCE_S) as client:
        return await client.post(f"{mesh.frontend}/v1/chat/completions", json=body, headers=headers)


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(mesh: Mesh) -> None:
    async def scenario() -> tuple[Asked, list[httpx.Response]]:
        async with tenant(mesh, "acme") as acme, asyncio.TaskGroup() as tasks:
            under_way = []
            async with asyncio.timeout(SEEN_WITHIN_S):
                # Not five and no more: a runtime whose word is late for a moment takes none.
                while await asyncio.to_thread(queued, mesh) < 1:
                    under_way.append(tasks.create_task(acme.ask(LONG)))
            refused = await acme.ask(1)
            answers = [await chat(mesh, stream=each) for each in (True, False)]
            for each in under_way:
                each.cancel()
            return refused, answers

    refused, answers = asyncio.run(scenario())

    assert isinstance(refused.error, Refused)
    assert refused.error.reason == "QUEUE_FULL"
    assert (refused.error.retry_after_s or 0.0) >= 1.0
    assert refused.ended_s is not None
    assert refused.ended_s - refused.begun_s < AT_ONCE_S
    for answer in answers:
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "QUEUE_FULL")
        assert int(answer.headers["retry-after"]) >= 1
