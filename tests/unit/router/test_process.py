"""The router as a process: it finds its peers, answers Envoy and operators, drains, stops."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import grpc
import httpx
from envoy.service.accesslog.v3.als_pb2_grpc import AccessLogServiceStub

from deploy.local.aside import free_port
from evenflow.policy.v1.tenant_service_pb2_grpc import add_TenantServiceServicer_to_server
from evenflow.router.v1 import router_service_pb2 as pb
from evenflow.router.v1.router_service_pb2_grpc import RouterServiceStub
from evenflow.runtime.v1.runtime_service_pb2_grpc import add_RuntimeServiceServicer_to_server
from evenflow.telemetry.v1.record_service_pb2_grpc import add_RecordServiceServicer_to_server
from services.chassis.identity import channel, server_credentials
from services.router.outbound.policy import PolicyWord
from tests import processes
from tests.contract import test_request_records, test_runtime_states, test_tenant_words
from tests.fakes.request_records import FakeTelemetry
from tests.fakes.runtime_states import FakeRuntime
from tests.fakes.tenant_words import FakePolicy
from tests.identities import Identities
from tests.unit.router.test_servers import asked_over, logged
from tests.unit.router.values import check_request, state, tenant


class Peers:
    """A runtime, policy and telemetry over mTLS, and how the router is told of them."""

    def __init__(self, folder: Path) -> None:
        self.identities = Identities(folder)
        self.runtime = FakeRuntime("", state())
        self.policy = FakePolicy(PolicyWord("v1", (tenant(),)))
        self.telemetry = FakeTelemetry()
        self.socket = f"unix:{folder}/run/router.sock"
        self.check_socket = f"{folder}/run/check.sock"
        self.operator = f"127.0.0.1:{free_port()}"
        self._folder = folder

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Mapping[str, str]]:
        add = (
            (add_RuntimeServiceServicer_to_server, test_runtime_states.Servicer, self.runtime),
            (add_TenantServiceServicer_to_server, test_tenant_words.Servicer, self.policy),
            (add_RecordServiceServicer_to_server, test_request_records.Servicer, self.telemetry),
        )
        servers, ports = [], []
        for name, (register, servicer, fake) in zip(
            ("runtime", "policy", "telemetry"), cast(Any, add), strict=True
        ):
            server = grpc.aio.server()
            register(servicer(fake), server)
            credentials = server_credentials(self.identities.service(name))
            ports.append(server.add_secure_port("127.0.0.1:0", credentials))
            servers.append(server)
            await server.start()
        yield self._environ(*(f"127.0.0.1:{port}" for port in ports))
        for server in servers:
            await server.stop(None)

    def _environ(self, runtime: str, policy: str, telemetry: str) -> Mapping[str, str]:
        for name in ("router", "gateway"):
            self.identities.service(name)
        (self._folder / "salt").write_text("0123456789abcdef")
        (self._folder / "key-secret").write_text("0123456789abcdef" * 4)
        return {
            "ROUTER_SOCKET": self.socket.removeprefix("unix:"),
            "ROUTER_CHECK_SOCKET": self.check_socket,
            "ROUTER_OPERATOR_LISTEN": self.operator,
            "ROUTER_MESH_LISTEN": "127.0.0.1:8443",
            "ROUTER_FRONTEND_LISTEN": "127.0.0.1:8080",
            "ROUTER_RUNTIMES": runtime,
            "ROUTER_POLICY": policy,
            "ROUTER_TELEMETRY": telemetry,
            "ROUTER_TLS": str(self._folder / "service/router"),
            "ROUTER_GATEWAY_TLS": str(self._folder / "service/gateway"),
            "ROUTER_SALT_SECRET_FILE": str(self._folder / "salt"),
            "ROUTER_KEY_SECRET_FILE": str(self._folder / "key-secret"),
            "ROUTER_AUDIT_SPOOL": str(self._folder / "spool"),
            "ROUTER_RUNTIME_SILENCE_S": "60",  # the fake says each state once
        }


async def ready(stub: Any) -> pb.Endpoint:
    """The only endpoint, once the router has heard from it and from policy."""
    while True:
        listed = await stub.ListEndpoints(pb.ListEndpointsRequest())
        if listed.endpoints[0].ready and listed.policy_version:
            endpoint: pb.Endpoint = listed.endpoints[0]
            return endpoint


def test_it_serves_envoy_and_operators_and_stops_when_told(tmp_path: Path) -> None:
    async def scenario() -> int:
        peers = Peers(tmp_path)
        async with (
            asyncio.timeout(60.0),
            peers.serving() as environ,
            processes.service("services.router", environ) as process,
        ):
            me = peers.identities.service("operator")
            await processes.serving(peers.operator, me, server="router")
            async with channel(peers.operator, me, server="router") as calls:
                await operate(peers, RouterServiceStub(calls))
            process.terminate()
            return await process.wait()

    assert asyncio.run(scenario()) == 0
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700


def test_what_ended_last_is_told_to_telemetry_before_it_ends(tmp_path: Path) -> None:
    async def scenario() -> list[str]:
        peers = Peers(tmp_path)
        async with (
            asyncio.timeout(60.0),
            peers.serving() as environ,
            processes.service("services.router", environ) as process,
        ):
            me = peers.identities.service("operator")
            await processes.serving(peers.operator, me, server="router")
            async with channel(peers.socket, cast(Any, None), server="router") as envoy:
                log: Any = AccessLogServiceStub(envoy).StreamAccessLogs
                await log(iter([logged("r1")]))
                await peers.telemetry.told_of(1)
                await log(iter([logged("r2")]))
                process.terminate()
                await process.wait()
        return peers.telemetry.told

    assert asyncio.run(scenario()) == ["r1", "r2"]


async def operate(peers: Peers, operator: Any) -> None:
    endpoint = await ready(operator)
    async with channel(peers.socket, cast(Any, None), server="router") as envoy:
        asking = httpx.AsyncHTTPTransport(uds=peers.check_socket)
        async with httpx.AsyncClient(transport=asking, base_url="http://router") as check:
            assert (await asked_over(check, check_request())).status_code == 200
        log: Any = AccessLogServiceStub(envoy).StreamAccessLogs
        await log(iter([logged("r1")]))
    assert await peers.telemetry.told_of(1) == ["r1"]

    explained = await operator.Explain(pb.ExplainRequest(request_id="r1"))
    assert explained.tenant == "acme"
    assert [each.address for each in explained.candidates] == [endpoint.address]
    assert explained.outcome.output_tokens == 20

    await operator.DrainEndpoint(pb.DrainEndpointRequest(address=endpoint.address))
    listed = await operator.ListEndpoints(pb.ListEndpointsRequest())
    assert not listed.endpoints[0].ready
    await peers.runtime.drained.wait()


def test_a_short_salt_is_printed_and_ends_it(tmp_path: Path) -> None:
    async def scenario() -> tuple[int, str]:
        peers = Peers(tmp_path)
        async with peers.serving() as environ:
            (tmp_path / "salt").write_text("short")
            async with processes.service("services.router", environ) as process:
                _, printed = await process.communicate()
                return await process.wait(), printed.decode()

    code, printed = asyncio.run(scenario())
    assert code == 78
    assert "the salt secret must have at least 16 bytes, got 5" in printed


def test_a_port_in_use_is_printed_in_one_line_and_ends_it(tmp_path: Path) -> None:
    async def scenario() -> tuple[int, str]:
        peers = Peers(tmp_path)
        async with peers.serving() as environ:
            taken = {**environ, "ROUTER_OPERATOR_LISTEN": environ["ROUTER_POLICY"]}
            async with processes.service("services.router", taken) as process:
                _, printed = await process.communicate()
                return await process.wait(), printed.decode()

    code, printed = asyncio.run(scenario())
    assert code == 1
    assert "can't listen on 127.0.0.1" in printed
    assert "Traceback" not in printed
