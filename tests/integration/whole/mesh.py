"""A whole mesh in processes of its own, started the way `make run` starts it, on free ports."""

import json
import ssl
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx

from deploy.local.aside import Ports, aside
from evenflow.connection import Connection
from evenflow.home import service_folder, service_name, tenant_folder
from evenflow.router.v1 import router_service_pb2 as router_pb
from evenflow.router.v1.router_service_pb2_grpc import RouterServiceStub
from evenflow.runtime.v1.runtime_service_pb2_grpc import RuntimeServiceStub
from services.chassis.identity import TlsFiles, channel

ROOT = Path(__file__).resolve().parents[3]
LOOK_EVERY_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Mesh:
    home: Path
    model: str
    process: "subprocess.Popen[str]"
    single_ports: Ports
    runtime_ports: tuple[int, ...]
    step_s: float = 0.0  # of the simulated engine, one request alone
    slow_prompt_words: int = 0  # whose prefill takes the simulated engine seconds

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.single_ports.mesh}"

    @property
    def frontend(self) -> str:
        return f"http://127.0.0.1:{self.single_ports.frontend}"

    @property
    def prometheus_port(self) -> int:
        return self.single_ports.prometheus

    @property
    def runtimes(self) -> list[str]:
        return [f"127.0.0.1:{port}" for port in self.runtime_ports]

    def tenant(self, name: str) -> Path:
        return tenant_folder(self.home, name)

    def api_key(self, tenant: str) -> str:
        return (self.home / "api-keys" / tenant).read_text().strip()

    def ports(self, service: str) -> list[int]:
        if service == "runtime":
            return list(self.runtime_ports)
        return [self.single_ports._asdict()[service]]

    def is_ready(self) -> bool:
        """The router may send requests to every runtime."""
        return all(each.ready for each in self._endpoints())

    def is_idle(self) -> bool:
        """As far as the router knows."""
        return not any(each.in_flight for each in self._endpoints())

    def _endpoints(self) -> Sequence[router_pb.Endpoint]:
        with self._operator("router", self.ports("router")[0]) as calls:
            seen: router_pb.ListEndpointsResponse = RouterServiceStub(calls).ListEndpoints(
                router_pb.ListEndpointsRequest(), timeout=5
            )
        return seen.endpoints

    def explain(self, request_id: str) -> router_pb.ExplainResponse:
        with self._operator("router", self.ports("router")[0]) as calls:
            response: router_pb.ExplainResponse = RouterServiceStub(calls).Explain(
                router_pb.ExplainRequest(request_id=request_id), timeout=5
            )
        return response

    def metrics(self) -> str:
        folder = service_folder(self.home, "operator")
        context = ssl.create_default_context(cafile=folder / "ca.pem")
        context.check_hostname = False  # the certificate names telemetry.evenflow.local
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        with httpx.Client(verify=context, trust_env=False) as client:
            return client.get(f"https://127.0.0.1:{self.prometheus_port}/metrics").text

    @asynccontextmanager
    async def runtime_stubs(self) -> AsyncIterator[dict[str, Any]]:
        """RuntimeService of each runtime, as a router sees it."""
        tls = TlsFiles.in_folder(service_folder(self.home, "router"))
        async with AsyncExitStack() as stack:
            stubs = {}
            for address in self.runtimes:
                calls = await stack.enter_async_context(channel(address, tls, server="runtime"))
                stubs[address] = RuntimeServiceStub(calls)
            yield stubs

    def envoy_counters(self) -> dict[str, int]:
        """What Envoy has sent to the router's process since it started."""
        transport = httpx.HTTPTransport(uds=str(self.home / "run" / "envoy-admin.sock"))
        with httpx.Client(transport=transport, base_url="http://envoy") as admin:
            found = json.loads(admin.get("/stats?format=json").text)["stats"]
        stats = {each["name"]: each["value"] for each in found if "value" in each}
        return {
            "checks": _sum(stats, "http.", "ext_authz.ok")
            + _sum(stats, "http.", "ext_authz.denied"),
            "logs_written": _sum(stats, "access_logs.grpc_access_log", "logs_written"),
            "bytes_to_router": _sum(stats, "cluster.router", "upstream_cx_tx_bytes_total"),
        }

    def envoy_counters_once(
        self, reached: Callable[[Mapping[str, int]], bool], *, since: Mapping[str, int]
    ) -> dict[str, int]:
        """By how much they grew, once `reached` holds for them."""
        tick = threading.Event()
        give_up_at_s = time.monotonic() + 10
        while not reached(now := self.envoy_counters()):
            assert time.monotonic() < give_up_at_s, now
            tick.wait(LOOK_EVERY_S)
        return {name: value - since[name] for name, value in now.items()}

    @contextmanager
    def _operator(self, server: str, port: int) -> Iterator[grpc.Channel]:
        folder = service_folder(self.home, "operator")
        reached = Connection(f"127.0.0.1:{port}", folder, service_name(server))
        with reached.blocking_channel() as calls:
            yield calls


def _sum(stats: Mapping[str, int], *parts: str) -> int:
    return sum(value for name, value in stats.items() if all(part in name for part in parts))


@contextmanager
def running(
    *, command: str, model: str, environ: Mapping[str, str] | None = None, **facts: Any
) -> Iterator[Mesh]:
    """`command` is a command of `python -m deploy.local`."""
    with aside(command, environ or {}) as started:
        yield Mesh(
            home=started.home,
            model=model,
            process=started.process,
            single_ports=started.ports,
            runtime_ports=started.runtime_ports,
            **facts,
        )
