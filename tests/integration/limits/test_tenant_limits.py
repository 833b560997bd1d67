"""A tenant at its limits, as its callers see it through Envoy."""

import asyncio
import re
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest

from evenflow.connection import Connection
from evenflow.errors import Refused
from evenflow.home import service_folder, service_name
from evenflow.router.v1 import router_service_pb2 as router_pb
from evenflow.router.v1.router_service_pb2_grpc import RouterServiceStub
from tests.integration.flow.asking import Asked, tenant
from tests.integration.whole.mesh import Mesh, running
from tests.integration.whole.programs import until

LONG = 1500
SEEN_WITHIN_S = 30.0
SIMULATED = {"RUNTIME_MAX_RUNNING": "8", "RUNTIME_SIMULATED_STEP_S": "0.02"}
_ACME = "default_workload_class: interactive\n"


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with running(command="simulate", model="simulated", environ=SIMULATED) as started:
        yield started


def limit(mesh: Mesh, **limits: float) -> None:
    """Acme, and returns when the router has heard of it. What it has used stays counted."""
    before = policy_version(mesh)
    file = mesh.home / "tenants.yaml"
    bare = re.sub(r"    limits: .*\n", "", file.read_text())
    said = ", ".join(f"{name}: {value}" for name, value in limits.items())
    file.write_text(bare.replace(_ACME, f"{_ACME}    limits: {{{said}}}\n", 1))
    until(lambda: policy_version(mesh) not in (before, ""), within_s=SEEN_WITHIN_S)


def policy_version(mesh: Mesh) -> str:
    folder, port = service_folder(mesh.home, "operator"), mesh.single_ports.router
    reached = Connection(f"127.0.0.1:{port}", folder, service_name("router"))
    with reached.blocking_channel() as calls:
        listed: router_pb.ListEndpointsResponse = RouterServiceStub(calls).ListEndpoints(
            router_pb.ListEndpointsRequest(), timeout=5
        )
    return listed.policy_version


def chat(mesh: Mesh, **fields: Any) -> httpx.Response:
    body: Mapping[str, Any] = {
        "model": mesh.model,
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 5,
        **fields,
    }
    headers = {"authorization": f"Bearer {mesh.api_key('acme')}"}
    with httpx.Client(trust_env=False, timeout=SEEN_WITHIN_S) as client:
        return client.post(f"{mesh.frontend}/v1/chat/completions", json=body, headers=headers)


async def stub(mesh: Mesh, tokens: int = 5) -> Asked:
    async with tenant(mesh, "acme") as acme:
        return await acme.ask(tokens)


def test_above_its_concurrent_requests_it_is_refused_until_one_has_ended(mesh: Mesh) -> None:
    limit(mesh, concurrent_requests=1)

    async def scenario() -> tuple[httpx.Response, Asked]:
        async with tenant(mesh, "acme") as acme, asyncio.TaskGroup() as tasks:
            under_way: list[Asked] = []
            running = tasks.create_task(acme.ask(LONG, into=under_way))
            async with asyncio.timeout(SEEN_WITHIN_S):
                while not (under_way and under_way[0].request_id):  # noqa: ASYNC110 - its first token
                    await asyncio.sleep(0.01)
            refused = await asyncio.to_thread(chat, mesh), await stub(mesh)
            running.cancel()
            return refused

    over_http, over_grpc = asyncio.run(scenario())

    assert (over_http.status_code, code(over_http)) == (429, "CONCURRENCY_LIMIT")
    assert 1 <= int(over_http.headers["retry-after"]) <= 30
    assert isinstance(over_grpc.error, Refused)
    assert over_grpc.error.reason == "CONCURRENCY_LIMIT"
    assert 1.0 <= (over_grpc.error.retry_after_s or 0.0) <= 30.0
    until(lambda: chat(mesh).status_code == 200, within_s=SEEN_WITHIN_S)


def test_a_cancelled_requests_tokens_come_back_once_its_runtime_has_told(mesh: Mesh) -> None:
    limit(mesh, tokens_per_minute=LONG + 200)

    async def cancelled() -> None:
        async with tenant(mesh, "acme") as acme, asyncio.TaskGroup() as tasks:
            under_way: list[Asked] = []
            running = tasks.create_task(acme.ask(LONG, into=under_way))
            async with asyncio.timeout(SEEN_WITHIN_S):
                while not (under_way and under_way[0].request_id):  # noqa: ASYNC110 - its first token
                    await asyncio.sleep(0.01)
            refused = await stub(mesh, LONG)
            assert isinstance(refused.error, Refused)
            assert refused.error.reason == "TOKEN_RATE_LIMIT"
            running.cancel()

    asyncio.run(cancelled())

    until(lambda: chat(mesh, max_tokens=LONG - 200, stop=["e"]).status_code == 200, within_s=5.0)


def test_a_request_above_its_share_of_kv_blocks_is_told_what_to_mend(mesh: Mesh) -> None:
    limit(mesh, kv_share=0.001)

    refused = chat(mesh, max_tokens=LONG)

    assert (refused.status_code, code(refused)) == (429, "KV_LIMIT")
    assert refused.json()["error"]["param"] == "max_tokens"
    assert refused.headers["x-should-retry"] == "false"
    assert "retry-after" not in refused.headers


def test_above_its_requests_a_minute_it_hears_when_to_come_back(mesh: Mesh) -> None:
    limit(mesh, requests_per_minute=1)
    chat(mesh)

    over_http, over_grpc = chat(mesh), asyncio.run(stub(mesh))

    assert (over_http.status_code, code(over_http)) == (429, "REQUEST_RATE_LIMIT")
    assert 1 <= int(over_http.headers["retry-after"]) <= 61
    assert isinstance(over_grpc.error, Refused)
    assert over_grpc.error.reason == "REQUEST_RATE_LIMIT"
    assert 0.0 < (over_grpc.error.retry_after_s or 0.0) <= 60.1
    until(lambda: 'reason="REQUEST_RATE_LIMIT"' in mesh.metrics(), within_s=SEEN_WITHIN_S)


def code(answer: httpx.Response) -> Any:
    return answer.json()["error"]["code"]
