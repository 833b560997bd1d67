"""The real Envoy between fakes: a scripted router on one side, two scripted runtimes on the other.

Everything on the wire is real: certificates, ADS, Check, the access log, HTTP/2.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
from envoy.service.accesslog.v3.als_pb2_grpc import add_AccessLogServiceServicer_to_server
from envoy.service.discovery.v3.ads_pb2_grpc import (
    add_AggregatedDiscoveryServiceServicer_to_server,
)

from deploy.local.aside import free_port
from evenflow.inference.v1.inference_service_pb2_grpc import (
    InferenceServiceStub,
    add_InferenceServiceServicer_to_server,
)
from evenflow.openai.v1.chat_service_pb2_grpc import add_ChatServiceServicer_to_server
from services.chassis.identity import TlsFiles, channel, server_credentials
from services.router.core.snapshot import DataPlane, HostPort, Snapshot, TlsMaterial
from services.router.inbound.discovery import Discovery
from tests.fakes.envoy_router import FakeAccessLog, FakeCheck, let_go
from tests.fakes.scripted_runtime import Script, ScriptedRuntime, chunk
from tests.identities import TRUST_DOMAIN, Identities
from tests.integration.envoy.mesh import ROOT, START_S, Envoy, check_socket, running_envoy

IMAGE = ROOT / "client" / "evenflow" / "openai" / "v1" / "evenflow.binpb"
CHAT = "/v1/chat/completions"
ASKED: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@dataclass(slots=True)
class Gateway:
    """`http` speaks to the front end, `stub` as tenant acme to the mesh listener."""

    envoy: Envoy
    snapshot: Snapshot
    discovery: Discovery
    check: FakeCheck
    log: FakeAccessLog
    runtimes: list[ScriptedRuntime]
    identities: Identities
    http: httpx.AsyncClient
    channel: grpc.aio.Channel
    stub: Any
    router: AsyncExitStack = field(repr=False)  # close it, and the router is gone
    runtime_servers: list[grpc.aio.Server] = field(repr=False)

    @property
    def addresses(self) -> list[str]:
        return [str(endpoint) for endpoint in self.snapshot.endpoints]

    def play(self, script: Script) -> None:
        """Every runtime answers like this."""
        for runtime in self.runtimes:
            runtime.script = script

    async def chat(self, **more: Any) -> httpx.Response:
        return await self.http.post(CHAT, json={**ASKED, **more})

    async def publish(self, snapshot: Snapshot, *, statistic: str) -> None:
        """Returns when Envoy has counted it."""
        before = await self.envoy.statistic(statistic)
        self.discovery.publish(snapshot)
        async with asyncio.timeout(5):
            while await self.envoy.statistic(statistic) == before:  # noqa: ASYNC110 - it can only be asked
                await asyncio.sleep(0.01)


async def one_chunk(_: Any) -> AsyncIterator[Any]:
    yield chunk("a")


@asynccontextmanager
async def running_gateway(
    folder: Path, identities: Identities | None = None, **plane: Any
) -> AsyncIterator[Gateway]:
    """`plane` are fields of DataPlane that differ from a plain one."""
    identities = identities or Identities(folder / "certs")
    async with AsyncExitStack() as stack:
        runtimes = [ScriptedRuntime(one_chunk) for _ in range(2)]
        tls = identities.service("runtime")
        started = [await stack.enter_async_context(serving(each, tls)) for each in runtimes]
        snapshot = Snapshot(
            data_plane=_plane(plane),
            tls=material(identities.service("gateway")),
            endpoints=tuple(HostPort("127.0.0.1", port) for _, port in started),
        )
        addresses = ",".join(str(endpoint) for endpoint in snapshot.endpoints)
        check, log, discovery = FakeCheck(_always(let_go(addresses))), FakeAccessLog(), Discovery()
        discovery.publish(snapshot)
        socket = folder / "router.sock"
        asked = await stack.enter_async_context(AsyncExitStack())
        await asked.enter_async_context(router(socket, check, log, discovery))
        envoy = await stack.enter_async_context(running_envoy(folder, socket))
        await _router_is_well(envoy)
        scheme = "https" if snapshot.data_plane.front_end_tls else "http"
        http = await stack.enter_async_context(
            httpx.AsyncClient(base_url=f"{scheme}://{snapshot.data_plane.front_end}", verify=False)  # noqa: S501 - which certificate is a test of its own
        )
        caller = await stack.enter_async_context(
            channel(str(snapshot.data_plane.mesh), identities.tenant("acme"), server="gateway")
        )
        yield Gateway(
            envoy=envoy,
            snapshot=snapshot,
            discovery=discovery,
            check=check,
            log=log,
            runtimes=runtimes,
            identities=identities,
            http=http,
            channel=caller,
            stub=InferenceServiceStub(caller),
            router=asked,
            runtime_servers=[server for server, _ in started],
        )


async def _router_is_well(envoy: Envoy) -> None:
    """Envoy's first look may time out while this busy process answers it late."""
    async with asyncio.timeout(START_S):
        while not await envoy.statistic("cluster.check.membership_healthy"):  # noqa: ASYNC110 - it can only be asked
            await asyncio.sleep(0.01)


def material(files: TlsFiles) -> TlsMaterial:
    read = files.read()
    return TlsMaterial(read.certificate, read.key, read.authorities, read.revocations)


def trailers_of(error: grpc.aio.AioRpcError) -> dict[str, str | bytes]:
    trailers: Any = error.trailing_metadata() or ()
    return dict(trailers)


def trusting(files: TlsFiles) -> ssl.SSLContext:
    """For HTTP clients that show a certificate."""
    context = ssl.create_default_context(cafile=str(files.authorities))
    context.load_cert_chain(files.certificate, files.key)
    return context


def _plane(changes: dict[str, Any]) -> DataPlane:
    plain = {
        "trust_domain": TRUST_DOMAIN,
        "mesh": HostPort("127.0.0.1", free_port()),
        "front_end": HostPort("127.0.0.1", free_port()),
        "descriptors": IMAGE.read_bytes(),
    }
    return DataPlane(**{**plain, **changes})


def _always(answer: Any) -> Any:
    async def same(_: Any) -> Any:
        return answer

    return same


@asynccontextmanager
async def serving(
    runtime: ScriptedRuntime, tls: TlsFiles
) -> AsyncIterator[tuple[grpc.aio.Server, int]]:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    add_ChatServiceServicer_to_server(runtime, server)
    add_InferenceServiceServicer_to_server(runtime, server)
    port = server.add_secure_port("127.0.0.1:0", server_credentials(tls))
    await server.start()
    try:
        yield server, port
    finally:
        await server.stop(0)


@asynccontextmanager
async def router(
    socket: Path, check: FakeCheck, log: FakeAccessLog, discovery: Discovery
) -> AsyncIterator[None]:
    server = grpc.aio.server()
    add_AccessLogServiceServicer_to_server(log, server)
    add_AggregatedDiscoveryServiceServicer_to_server(discovery, server)
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    try:
        async with check.serving(check_socket(socket)):
            yield
    finally:
        await server.stop(0)
