"""Every program but Envoy is restarted, one after the other, under load: no request fails."""

import asyncio
from collections.abc import Iterator

import grpc
import pytest

from evenflow.home import service_folder
from evenflow.router.v1 import router_service_pb2 as pb
from evenflow.router.v1.router_service_pb2_grpc import RouterServiceStub
from evenflow.runtime.v1.runtime_service_pb2 import WatchStateRequest
from services.chassis.identity import TlsFiles, channel
from tests.integration.faults.streams import Load, Stream
from tests.integration.whole.mesh import Mesh, running
from tests.integration.whole.programs import Programs

STREAMS = 8
TOKENS = 75  # 1.5 s: longer than a program may take to end, so only draining saves them
WITHIN_S = 20.0


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    environ = {"RUNTIME_SIMULATED_STEP_S": "0.02"}
    with running(command="simulate", model="simulated", environ=environ) as started:
        yield started


async def endpoint(mesh: Mesh, address: str) -> pb.Endpoint | None:
    """As the router sees it; None while it does not answer."""
    tls = TlsFiles.in_folder(service_folder(mesh.home, "operator"))
    router = f"127.0.0.1:{mesh.ports('router')[0]}"
    async with channel(router, tls, server="router") as calls:
        try:
            seen: pb.ListEndpointsResponse = await RouterServiceStub(calls).ListEndpoints(
                pb.ListEndpointsRequest(), timeout=5
            )
        except grpc.aio.AioRpcError:
            return None
    return next((each for each in seen.endpoints if each.address == address), None)


async def drain(mesh: Mesh, address: str) -> None:
    """Returns when nothing runs there any more, and nothing new can."""
    tls = TlsFiles.in_folder(service_folder(mesh.home, "operator"))
    router = f"127.0.0.1:{mesh.ports('router')[0]}"
    async with channel(router, tls, server="router") as calls:
        await RouterServiceStub(calls).DrainEndpoint(
            pb.DrainEndpointRequest(address=address), timeout=5
        )
    async with asyncio.timeout(WITHIN_S), mesh.runtime_stubs() as stubs:
        async for state in stubs[address].WatchState(WatchStateRequest()):
            if state.draining and not state.running and not state.waiting:
                return


async def restart(mesh: Mesh, name: str) -> None:
    programs = Programs(mesh.home)
    await asyncio.to_thread(programs.control.stop, name)
    await asyncio.to_thread(programs.control.start, name)


async def ready(mesh: Mesh, address: str) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not ((seen := await endpoint(mesh, address)) and seen.ready):  # noqa: ASYNC110 - it can only be asked
            await asyncio.sleep(0.1)


def test_no_request_fails_while_everything_is_restarted(mesh: Mesh) -> None:
    async def run() -> list[Stream]:
        clock = asyncio.get_running_loop().time
        load = Load(mesh.address, mesh.tenant("acme"), mesh.model, tokens=TOKENS)
        async with load.running(STREAMS):
            await load.until_streaming(STREAMS, within_s=WITHIN_S)
            for at, address in enumerate(mesh.runtimes, start=1):
                await drain(mesh, address)
                await restart(mesh, f"runtime-{at}")
                await ready(mesh, address)
            for name in ("policy", "telemetry", "router"):
                await restart(mesh, name)
                await load.answered(since_s=clock(), within_s=WITHIN_S)
        return load.streams

    streams = asyncio.run(run())

    assert [each.error for each in streams if each.error is not None] == []
