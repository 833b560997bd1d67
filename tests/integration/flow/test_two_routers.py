"""Two routers, each with an Envoy of its own, in front of the same two runtimes."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace

import pytest

from deploy.local.second import PEERS, Doors, second
from deploy.local.settings import address
from evenflow.home import service_folder
from services.chassis.identity import TlsFiles
from services.router.core.exchange import PeerWord
from services.router.outbound.peers import GrpcRouter
from tests.integration.flow.asking import Asked, let_both_tenants_use_the_model, tenant
from tests.integration.whole.mesh import Mesh, running

PATIENCE_S = 60.0
SIMULATED = {"RUNTIME_MAX_RUNNING": "2", "RUNTIME_SIMULATED_STEP_S": "0.02"}
AT_ONCE = 8  # of each tenant at each gateway: four run
TOKENS = 25
ENOUGH = 100  # answers


@pytest.fixture(scope="module")
def meshes() -> Iterator[tuple[Mesh, Mesh]]:
    """As seen through either gateway."""
    [doors] = Doors.free()
    environ = {**SIMULATED, PEERS: address(doors.router)}
    with running(command="simulate", model="simulated", environ=environ) as first:
        let_both_tenants_use_the_model(first)
        ports = first.single_ports._replace(
            mesh=doors.mesh, frontend=doors.frontend, router=doors.router
        )
        with second(
            doors,
            first.home,
            first.single_ports,
            runtime_ports=first.runtime_ports,
            environ=SIMULATED,
        ):
            other = replace(first, single_ports=ports)
            asyncio.run(until_it_answers(other))
            yield first, other


async def until_it_answers(mesh: Mesh) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await answers(mesh):  # noqa: ASYNC110 - as a caller, it can only ask
            await asyncio.sleep(0.2)


async def answers(mesh: Mesh) -> bool:
    async with tenant(mesh, "acme") as acme:
        return (await acme.ask(1, deadline_s=5.0)).answered


async def keep_asking(mesh: Mesh, name: str, answered: Counter[str], enough: asyncio.Event) -> None:
    async with tenant(mesh, name) as asking:
        while True:
            asked = await asking.ask(TOKENS)
            answered[name] += asked.answered
            if answered.total() >= ENOUGH:
                enough.set()


async def first_words(mesh: Mesh) -> PeerWord:
    tls = TlsFiles.in_folder(service_folder(mesh.home, "router"))
    router = GrpcRouter(address(mesh.single_ports.router), tls)
    async with aclosing(router.words()) as words:
        return await anext(words)


def test_who_uses_two_routers_gets_no_more_than_who_uses_one(meshes: tuple[Mesh, Mesh]) -> None:
    first, other = meshes
    answered: Counter[str] = Counter()

    async def scenario() -> None:
        enough = asyncio.Event()
        async with asyncio.timeout(2 * PATIENCE_S), asyncio.TaskGroup() as tasks:
            askers = [
                tasks.create_task(keep_asking(mesh, name, answered, enough))
                for mesh, name in ((first, "acme"), (other, "acme"), (other, "globex"))
                for _ in range(AT_ONCE)
            ]
            await enough.wait()
            for each in askers:
                each.cancel()

    asyncio.run(scenario())

    assert answered["acme"] < 1.5 * answered["globex"]
    assert answered["globex"] < 1.5 * answered["acme"]


def test_each_router_tells_what_it_gave(meshes: tuple[Mesh, Mesh]) -> None:
    for mesh in meshes:
        assert asyncio.run(ask_once(mesh)).answered
        word = asyncio.run(first_words(mesh))
        assert {each.tenant: each.served > 0 for each in word.accounts}["acme"]


async def ask_once(mesh: Mesh) -> Asked:
    async with tenant(mesh, "acme") as acme:
        return await acme.ask(TOKENS)
