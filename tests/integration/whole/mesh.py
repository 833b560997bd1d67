"""A whole mesh in processes of its own, started the way `make run` starts it, on free ports."""

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx

from evenflow.connection import Connection
from evenflow.home import service_folder, service_name, tenant_folder
from evenflow.router.v1 import router_service_pb2 as router_pb
from evenflow.router.v1.router_service_pb2_grpc import RouterServiceStub
from evenflow.runtime.v1.runtime_service_pb2_grpc import RuntimeServiceStub
from services.chassis.identity import TlsFiles, channel

ROOT = Path(__file__).resolve().parents[3]
READY_WITHIN_S = 120.0  # a machine that runs other tests too
STOPPED_WITHIN_S = 15.0
LOOK_EVERY_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Mesh:
    home: Path
    model: str
    process: "subprocess.Popen[str]"
    single_ports: Mapping[str, int]  # by EVENFLOW_* variable
    runtime_ports: tuple[int, ...]
    step_s: float = 0.0  # of the simulated engine, one request alone
    slow_prompt_words: int = 0  # whose prefill takes the simulated engine seconds
    output: list[str] = field(default_factory=list)  # lines printed so far
    spoke: threading.Event = field(default_factory=threading.Event)  # ready, or ended

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.single_ports['EVENFLOW_MESH_PORT']}"

    @property
    def frontend(self) -> str:
        return f"http://127.0.0.1:{self.single_ports['EVENFLOW_FRONTEND_PORT']}"

    @property
    def prometheus_port(self) -> int:
        return self.single_ports["EVENFLOW_PROMETHEUS_PORT"]

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
        return [self.single_ports[f"EVENFLOW_{service.upper()}_PORT"]]

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
    """`command` is a command of `python -m deploy.local`. Ends by Ctrl-C, as a person would."""
    home = Path(tempfile.mkdtemp(prefix="evf-"))  # pytest's folders are long for a unix socket
    names = ("MESH", "FRONTEND", "ROUTER", "POLICY", "TELEMETRY", "PROMETHEUS")
    numbers = free_ports(len(names) + 2)
    single = {f"EVENFLOW_{name}_PORT": port for name, port in zip(names, numbers, strict=False)}
    with subprocess.Popen(
        [sys.executable, "-m", "deploy.local", command],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}:{ROOT / 'client'}",
            "EVENFLOW_HOME": str(home),
            "EVENFLOW_DOWNLOADS": str(ROOT / ".evenflow"),
            "EVENFLOW_RUNTIME_PORTS": ",".join(map(str, numbers[-2:])),
            **{name: str(port) for name, port in single.items()},
            **(environ or {}),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        mesh = Mesh(
            home=home,
            model=model,
            process=process,
            single_ports=single,
            runtime_ports=tuple(numbers[-2:]),
            **facts,
        )
        reader = threading.Thread(target=_read, args=(mesh,))
        reader.start()
        try:
            _wait_until_ready(mesh)
            yield mesh
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(STOPPED_WITHIN_S)
            reader.join()
            shutil.rmtree(home)


def free_ports(number: int) -> list[int]:
    """Ports that were free a moment ago, all different."""
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _wait_until_ready(mesh: Mesh) -> None:
    in_time = mesh.spoke.wait(READY_WITHIN_S)
    assert in_time, "".join(mesh.output)
    assert mesh.process.poll() is None, "".join(mesh.output)


def _read(mesh: Mesh) -> None:
    for line in mesh.process.stdout or ():
        mesh.output.append(line)
        if line.startswith("evenflow: ready"):
            mesh.spoke.set()
    mesh.spoke.set()  # it ended
