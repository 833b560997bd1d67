"""What Envoy makes of what the router publishes, and of a router that comes and goes."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deploy.local.aside import free_port
from evenflow.inference.v1 import inference_service_pb2 as pb
from services.router.core.snapshot import HostPort, TlsMaterial
from tests.fakes.scripted_runtime import delta
from tests.integration.envoy.gateway import router, running_gateway

pytestmark = pytest.mark.integration

ASK = pb.GenerateRequest(model="m", text="hi")


async def answers(_: Any) -> AsyncIterator[Any]:
    yield delta("a")


def test_envoy_accepts_every_resource(tmp_path: Path) -> None:
    async def run() -> None:
        telemetry = HostPort("127.0.0.1", free_port())
        async with running_gateway(
            tmp_path, telemetry=telemetry, front_end_tls=True, cors_origins=("*",)
        ) as gateway:
            assert gateway.discovery.refusals == 0
            assert "Deprecated" not in gateway.envoy.log.read_text()

    asyncio.run(run())


def test_a_changed_cluster_serves_on(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            gateway.play(answers)
            telemetry = HostPort("127.0.0.1", free_port())
            plane = replace(gateway.snapshot.data_plane, telemetry=telemetry, trace_share=0.5)
            changed = replace(gateway.snapshot, data_plane=plane)
            await gateway.publish(changed, statistic=r"cluster_manager\.cds\.update_success")
            await gateway.publish(
                replace(changed, endpoints=changed.endpoints[:1]),
                statistic=r"cluster\.runtime\.membership_change",
            )
            await gateway.stub.Generate(ASK).read()
            assert gateway.discovery.refusals == 0

    asyncio.run(run())


def test_what_envoy_refuses_is_counted_and_changes_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            gateway.play(answers)
            broken = replace(gateway.snapshot, tls=TlsMaterial(b"no", b"certificate", b"here"))
            await gateway.publish(broken, statistic=r"sds\..*\.update_rejected")
            async with asyncio.timeout(5):  # Envoy counts first, and then tells us
                while not gateway.discovery.refusals:  # noqa: ASYNC110 - it comes when it likes
                    await asyncio.sleep(0.01)
            await gateway.stub.Generate(ASK).read()
            assert gateway.discovery.refusals == 1

    asyncio.run(run())


def test_envoy_serves_on_under_a_router_that_starts_again(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            gateway.play(answers)
            await gateway.router.aclose()
            socket = tmp_path / "router.sock"
            async with router(socket, gateway.check, gateway.log, gateway.discovery):
                async with asyncio.timeout(10):
                    while not gateway.discovery.connected:  # noqa: ASYNC110 - it comes when it likes
                        await asyncio.sleep(0.01)
                await gateway.stub.Generate(ASK).read()
            assert gateway.discovery.refusals == 0

    asyncio.run(run())
