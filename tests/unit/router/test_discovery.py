"""The xDS conversation, over a real gRPC stream in this process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
from envoy.config.core.v3.base_pb2 import Node
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.service.discovery.v3 import discovery_pb2 as pb
from envoy.service.discovery.v3.ads_pb2_grpc import (
    AggregatedDiscoveryServiceStub,
    add_AggregatedDiscoveryServiceServicer_to_server,
)
from google.rpc.status_pb2 import Status
from structlog.testing import capture_logs

from services.router.core.snapshot import DataPlane, HostPort, Snapshot, TlsMaterial
from services.router.inbound.discovery import Discovery
from services.router.inbound.resources.build import (
    CLUSTERS,
    LISTENERS,
    LOAD_ASSIGNMENTS,
    ROUTES,
    SECRETS,
)

PLANE = DataPlane(
    trust_domain="evenflow.local",
    mesh=HostPort("127.0.0.1", 8443),
    front_end=HostPort("127.0.0.1", 8080),
    descriptors=b"image",
)
SNAPSHOT = Snapshot(PLANE, TlsMaterial(b"certificate", b"key", b"authorities"))
A, B = HostPort("10.0.0.1", 9101), HostPort("10.0.0.2", 9101)
WITH_TELEMETRY = replace(PLANE, telemetry=HostPort("127.0.0.1", 9030))


class Envoy:
    """Says what Envoy would say on one stream."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def ask(self, url: str, *names: str) -> None:
        node = Node(id="envoy-1")
        await self._call.write(pb.DiscoveryRequest(node=node, type_url=url, resource_names=names))

    async def told(self) -> Any:
        async with asyncio.timeout(2):
            return await self._call.read()

    async def accept(self, answer: Any, *names: str) -> None:
        await self._call.write(
            pb.DiscoveryRequest(
                type_url=answer.type_url,
                version_info=answer.version_info,
                response_nonce=answer.nonce,
                resource_names=names,
            )
        )

    async def refuse(self, answer: Any, why: str, *names: str) -> None:
        await self._call.write(
            pb.DiscoveryRequest(
                type_url=answer.type_url,
                response_nonce=answer.nonce,
                resource_names=names,
                error_detail=Status(code=13, message=why),
            )
        )

    def leave(self) -> None:
        self._call.cancel()

    async def learn(self, url: str, *names: str) -> Any:
        """Asks, reads the answer, accepts it."""
        await self.ask(url, *names)
        answer = await self.told()
        assert answer.type_url == url
        await self.accept(answer, *names)
        return answer


@asynccontextmanager
async def serving(discovery: Discovery, folder: Path) -> AsyncIterator[Any]:
    server = grpc.aio.server()
    add_AggregatedDiscoveryServiceServicer_to_server(discovery, server)
    address = f"unix:{folder / 'ads.sock'}"
    server.add_insecure_port(address)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            stub = AggregatedDiscoveryServiceStub(channel)
            yield lambda: Envoy(stub.StreamAggregatedResources())
    finally:
        await server.stop(0)


def endpoints_in(answer: Any) -> list[str]:
    (assignment,) = answer.resources
    (locality,) = ClusterLoadAssignment.FromString(assignment.value).endpoints
    return [each.endpoint.address.socket_address.address for each in locality.lb_endpoints]


def test_a_new_envoy_is_told_everything_it_asks_for(tmp_path: Path) -> None:
    async def run() -> None:
        discovery = Discovery()
        discovery.publish(replace(SNAPSHOT, endpoints=(A,)))
        async with serving(discovery, tmp_path) as connect:
            for envoy in (connect(), connect()):
                assert len((await envoy.learn(CLUSTERS)).resources) == 1
                assert endpoints_in(await envoy.learn(LOAD_ASSIGNMENTS, "runtime")) == ["10.0.0.1"]
                assert len((await envoy.learn(LISTENERS)).resources) == 2
                assert len((await envoy.learn(ROUTES, "mesh")).resources) == 1
                assert len((await envoy.learn(SECRETS, "gateway")).resources) == 1
            assert discovery.connected == 2

    asyncio.run(run())


def test_an_envoy_that_comes_too_early_waits(tmp_path: Path) -> None:
    async def run() -> None:
        discovery = Discovery()
        async with serving(discovery, tmp_path) as connect:
            envoy = connect()
            await envoy.ask(CLUSTERS)
            async with asyncio.timeout(2):
                while not discovery.connected:  # noqa: ASYNC110 - the wire takes its time
                    await asyncio.sleep(0)
            discovery.publish(SNAPSHOT)
            assert (await envoy.told()).type_url == CLUSTERS

    asyncio.run(run())


def test_a_change_is_sent_once_and_nothing_else_with_it(tmp_path: Path) -> None:
    async def run() -> None:
        discovery = Discovery()
        discovery.publish(replace(SNAPSHOT, endpoints=(A,)))
        async with serving(discovery, tmp_path) as connect:
            envoy = connect()
            await envoy.learn(CLUSTERS)
            first = await envoy.learn(LOAD_ASSIGNMENTS, "runtime")

            discovery.publish(replace(SNAPSHOT, endpoints=(A,)))  # the same
            discovery.publish(replace(SNAPSHOT, endpoints=(A, B)))
            second = await envoy.told()
            assert endpoints_in(second) == ["10.0.0.1", "10.0.0.2"]
            assert second.version_info != first.version_info
            await envoy.accept(second, "runtime")

            discovery.publish(replace(SNAPSHOT, endpoints=(B,)))
            third = await envoy.told()
            assert endpoints_in(third) == ["10.0.0.2"]
            assert (first.nonce, second.nonce, third.nonce) == ("2", "3", "4")

    asyncio.run(run())


def test_a_name_more_is_answered_anew(tmp_path: Path) -> None:
    async def run() -> None:
        discovery = Discovery()
        discovery.publish(SNAPSHOT)
        async with serving(discovery, tmp_path) as connect:
            envoy = connect()
            await envoy.ask(SECRETS, "gateway")
            answer = await envoy.told()
            await envoy.accept(answer, "gateway", "authorities")
            assert len((await envoy.told()).resources) == 2

    asyncio.run(run())


def test_clusters_come_first_and_their_endpoints_with_them(tmp_path: Path) -> None:
    async def run() -> None:
        discovery = Discovery()
        discovery.publish(SNAPSHOT)
        async with serving(discovery, tmp_path) as connect:
            envoy = connect()
            await envoy.learn(CLUSTERS)
            await envoy.learn(LISTENERS)
            await envoy.learn(LOAD_ASSIGNMENTS, "runtime")

            discovery.publish(replace(SNAPSHOT, data_plane=WITH_TELEMETRY))
            order = [(await envoy.told()).type_url for _ in range(3)]
            assert order == [CLUSTERS, LOAD_ASSIGNMENTS, LISTENERS]

    asyncio.run(run())


def test_a_refusal_is_counted_logged_and_not_repeated(tmp_path: Path) -> None:
    async def run() -> None:
        discovery = Discovery()
        discovery.publish(replace(SNAPSHOT, endpoints=(A,)))
        async with serving(discovery, tmp_path) as connect:
            envoy = connect()
            await envoy.ask(LOAD_ASSIGNMENTS, "runtime")
            with capture_logs() as logs:
                await envoy.refuse(await envoy.told(), "malformed address", "runtime")
                await envoy.learn(SECRETS, "gateway")  # answered after the refusal was heard
            assert discovery.refusals == 1
            assert [(each["event"], each["message"], each["node"]) for each in logs] == [
                ("discovery.refused", "malformed address", "envoy-1")
            ]
            discovery.publish(replace(SNAPSHOT, endpoints=(B,)))
            assert endpoints_in(await envoy.told()) == ["10.0.0.2"]

    asyncio.run(run())


def test_what_was_said_of_an_older_answer_is_ignored(tmp_path: Path) -> None:
    async def run() -> None:
        discovery = Discovery()
        discovery.publish(replace(SNAPSHOT, endpoints=(A,)))
        async with serving(discovery, tmp_path) as connect:
            envoy = connect()
            await envoy.ask(LOAD_ASSIGNMENTS, "runtime")
            older = await envoy.told()
            discovery.publish(replace(SNAPSHOT, endpoints=(B,)))
            await envoy.told()
            await envoy.refuse(older, "too late", "runtime")
            await envoy.learn(SECRETS, "gateway")
            assert discovery.refusals == 0

    asyncio.run(run())


def test_an_envoy_that_leaves_is_forgotten(tmp_path: Path) -> None:
    async def run() -> None:
        discovery = Discovery()
        discovery.publish(SNAPSHOT)
        async with serving(discovery, tmp_path) as connect:
            envoy = connect()
            await envoy.learn(CLUSTERS)
            envoy.leave()
            async with asyncio.timeout(2):
                while discovery.connected:  # noqa: ASYNC110 - the wire takes its time
                    await asyncio.sleep(0)

    asyncio.run(run())
