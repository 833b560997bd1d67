"""The mesh under measurement, on the simulated engine, in processes of its own; and plain Envoy.

Both Envoys are the same binary with as many threads. The plain one has the same mTLS on both sides
and does nothing else: no Check, no access log, no transcoder, round robin.
"""

import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from deploy.envoy.install import install as install_envoy
from deploy.local.aside import (
    READY_WITHIN_S,
    STOPPED_WITHIN_S,
    Ports,
    aside,
    free_port,
)
from deploy.local.settings import Settings
from evenflow.home import TRUST_DOMAIN, service_folder, service_id, tenant_folder

ROOT = Path(__file__).resolve().parents[1]
LOOK_EVERY_S = 0.05
_ROLES = {
    "services.router": "router",
    "services.policy": "policy",
    "services.telemetry": "telemetry",
    "services.runtime": "runtime",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mesh:
    home: Path
    ports: Ports
    runtime_ports: tuple[int, ...]
    process: psutil.Process

    @property
    def runtimes(self) -> tuple[str, ...]:
        return tuple(f"127.0.0.1:{port}" for port in self.runtime_ports)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.ports.mesh}"

    @property
    def tenant(self) -> Path:
        return tenant_folder(self.home, "acme")

    @property
    def tenants(self) -> list[Path]:
        return [tenant_folder(self.home, name) for name in ("acme", "globex")]

    @property
    def gateway(self) -> Path:
        return service_folder(self.home, "gateway")

    def sent_to_runtimes(self) -> int:
        """Attempts that Envoy has made since it was started, retries and hedges among them."""
        transport = httpx.HTTPTransport(uds=str(self.home / "run" / "envoy-admin.sock"))
        with httpx.Client(transport=transport, base_url="http://envoy") as admin:
            said = admin.get("/stats?filter=^cluster.runtime.upstream_rq_total$").text
        return int(said.rpartition(": ")[2])

    def processes(self) -> dict[str, list[psutil.Process]]:
        """By role: router, envoy, runtime, policy, telemetry."""
        found: dict[str, list[psutil.Process]] = {}
        for each in self.process.children(recursive=True):
            command = each.cmdline()
            role = "envoy" if command and command[0].endswith("/envoy") else None
            if "-m" in command:
                role = _ROLES.get(command[command.index("-m") + 1])
            if role:
                found.setdefault(role, []).append(each)
        return found


@contextmanager
def running(
    environ: Mapping[str, str], *, command: str = "simulate", **options: Any
) -> Iterator[Mesh]:
    """Ready when the body is entered, gone when it is left. `options`: of `aside`."""
    with aside(command, environ, **options) as started:
        yield Mesh(
            home=started.home,
            ports=started.ports,
            runtime_ports=started.runtime_ports,
            process=psutil.Process(started.process.pid),
        )


@dataclass(frozen=True, slots=True)
class PlainEnvoy:
    address: str
    process: psutil.Process


@contextmanager
def plain_envoy(mesh: Mesh) -> Iterator[PlainEnvoy]:
    port = free_port()
    file = mesh.home / "plain-envoy.json"
    file.write_text(json.dumps(_configuration(port, mesh)))
    binary = install_envoy(ROOT / ".evenflow")
    command = (str(binary), "--config-path", str(file), "--disable-hot-restart")
    options = ("--concurrency", str(Settings().envoy_threads), "--log-level", "error")
    process = subprocess.Popen((*command, *options), start_new_session=True)  # noqa: S603 - ours
    try:
        wait_for(port)
        yield PlainEnvoy(f"127.0.0.1:{port}", psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait(STOPPED_WITHIN_S)


def wait_for(port: int) -> None:
    give_up_at_s = time.monotonic() + READY_WITHIN_S
    tick = threading.Event()
    while time.monotonic() < give_up_at_s:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        tick.wait(LOOK_EVERY_S)
    raise RuntimeError(f"nobody listens on {port}")


_TYPE = "type.googleapis.com/envoy.extensions"


def _configuration(port: int, mesh: Mesh) -> dict[str, Any]:
    connections = {
        "@type": f"{_TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "plain",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {
                            "match": {"prefix": "/"},
                            "route": {"cluster": "runtimes", "timeout": "0s"},
                        }
                    ],
                }
            ]
        },
        "http2_protocol_options": {
            "max_concurrent_streams": 4096,
            "initial_stream_window_size": 256 << 10,
            "initial_connection_window_size": 1 << 20,
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_TYPE}.filters.http.router.v3.Router"},
            }
        ],
    }
    listener = {
        "address": _address(f"127.0.0.1:{port}"),
        "filter_chains": [
            {
                "filters": [{"name": "http", "typed_config": connections}],
                "transport_socket": _tls("Downstream", mesh, require_client_certificate=True),
            }
        ],
    }
    return {"static_resources": {"listeners": [listener], "clusters": [_cluster(mesh)]}}


def _cluster(mesh: Mesh) -> dict[str, Any]:
    http2: dict[str, Any] = {"explicit_http_config": {"http2_protocol_options": {}}}
    threshold = dict.fromkeys(
        ("max_connections", "max_pending_requests", "max_requests"), 1_000_000
    )
    return {
        "name": "runtimes",
        "type": "STATIC",
        "lb_policy": "ROUND_ROBIN",
        "circuit_breakers": {"thresholds": [threshold]},
        "load_assignment": {
            "cluster_name": "runtimes",
            "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": _address(at)}} for at in mesh.runtimes]}
            ],
        },
        "transport_socket": _tls("Upstream", mesh, sni=f"runtime.{TRUST_DOMAIN}"),
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_TYPE}.upstreams.http.v3.HttpProtocolOptions",
                **http2,
            }
        },
    }


def _tls(side: str, mesh: Mesh, **options: Any) -> dict[str, Any]:
    files = mesh.gateway
    peers = (
        {"exact": service_id("runtime")}
        if side == "Upstream"
        else {"prefix": f"spiffe://{TRUST_DOMAIN}/"}
    )
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{_TYPE}.transport_sockets.tls.v3.{side}TlsContext",
            "common_tls_context": {
                "alpn_protocols": ["h2"],
                "tls_certificates": [
                    {
                        "certificate_chain": {"filename": str(files / "cert.pem")},
                        "private_key": {"filename": str(files / "key.pem")},
                    }
                ],
                "validation_context": {
                    "trusted_ca": {"filename": str(files / "ca.pem")},
                    "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": peers}],
                },
            },
            **options,
        },
    }


def _address(text: str) -> dict[str, Any]:
    host, _, port = text.rpartition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}
