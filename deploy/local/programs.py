"""The programs of the mesh on one machine: their commands, and their settings out of ours.

Each service's own page (services/*/config.py) says what its variables mean.
"""

import os
import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.envoy.bootstrap import bootstrap, check_connections
from deploy.envoy.hand_over import ADMIN
from deploy.local.engines import Engine
from deploy.local.keys import audit_key
from deploy.local.settings import Settings, address
from deploy.local.supervision import Program
from evenflow.home import TRUST_DOMAIN, service_folder

ROOT = Path(__file__).resolve().parents[2]
QUEUE_LIMIT = 2000  # requests that wait, where there are files for them
DRAIN_S = 1  # streams under way get this long once the mesh is told to stop


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is on disk before the first program starts."""

    envoy: Path
    tenants: Path
    cache_salt: Path
    key_secret: Path
    sockets: Path  # folder


def programs(settings: Settings, prepared: Prepared, engine: Engine) -> list[Program]:
    """In the order to start them; each waits for the others by itself."""
    return [
        _service("policy", "backing", _policy(settings, prepared)),
        _service("telemetry", "backing", _telemetry(settings)),
        *(
            Program(
                name=f"runtime-{at}",
                command=(str(engine.python), "-m", "services.runtime"),
                group="serving",
                stop_within_s=4,  # vLLM's engine takes as long to let go
                environ={
                    **_runtime(port, settings, prepared, engine),
                    "RUNTIME_POLICY": address(settings.policy_port),
                    "RUNTIME_JOURNAL": str(settings.home / "journals" / f"runtime-{at}.db"),
                    **own_settings(at, os.environ),
                },
            )
            for at, port in enumerate(settings.runtime_ports, start=1)
        ),
        _service("router", "serving", _router(settings, prepared)),
        _envoy(settings, prepared),
    ]


def _service(name: str, group: str, environ: Mapping[str, str]) -> Program:
    return Program(
        name=name,
        command=(sys.executable, "-m", f"services.{name}"),
        group=group,
        stop_within_s=DRAIN_S + 1,
        environ={**_python_path(), f"{name.upper()}_DRAIN_S": str(DRAIN_S), **environ},
    )


def _policy(settings: Settings, prepared: Prepared) -> dict[str, str]:
    return {
        "POLICY_LISTEN": address(settings.policy_port),
        "POLICY_FILE": str(prepared.tenants),
        "POLICY_TRUST_DOMAIN": TRUST_DOMAIN,
        "POLICY_TLS": _tls(settings, "policy"),
        "POLICY_DATABASE": os.environ.get(
            "POLICY_DATABASE", f"sqlite:///{settings.home}/policy.db"
        ),
        "POLICY_KEY_SECRET_FILE": str(prepared.key_secret),
        "POLICY_AUDIT": str(settings.home / "audit"),
        "POLICY_AUDIT_KEY_FILE": str(audit_key(settings.home)),
        "POLICY_OTLP": address(settings.telemetry_port),
    }


def _telemetry(settings: Settings) -> dict[str, str]:
    environ = {
        "TELEMETRY_LISTEN": address(settings.telemetry_port),
        "TELEMETRY_PROMETHEUS_LISTEN": address(settings.prometheus_port),
        "TELEMETRY_TLS": _tls(settings, "telemetry"),
        "TELEMETRY_OTLP": address(settings.telemetry_port),
    }
    if settings.otlp_forward is not None:
        environ["TELEMETRY_OTLP_FORWARD"] = str(settings.otlp_forward)
        environ["TELEMETRY_OTLP_FORWARD_TLS"] = settings.otlp_forward_tls
    return environ


def _router(settings: Settings, prepared: Prepared) -> dict[str, str]:
    return {
        "ROUTER_SOCKET": str(_router_socket(prepared)),
        "ROUTER_CHECK_SOCKET": str(_check_socket(prepared)),
        "ROUTER_OPERATOR_LISTEN": address(settings.router_port),
        "ROUTER_MESH_LISTEN": address(settings.mesh_port),
        "ROUTER_FRONTEND_LISTEN": address(settings.frontend_port),
        "ROUTER_RUNTIMES": ",".join(address(port) for port in settings.runtime_ports),
        "ROUTER_POLICY": address(settings.policy_port),
        "ROUTER_TELEMETRY": address(settings.telemetry_port),
        "ROUTER_TLS": _tls(settings, "router"),
        "ROUTER_GATEWAY_TLS": _tls(settings, "gateway"),
        "ROUTER_SALT_SECRET_FILE": str(prepared.cache_salt),
        "ROUTER_KEY_SECRET_FILE": str(prepared.key_secret),
        "ROUTER_AUDIT_SPOOL": str(settings.home / "spools" / str(settings.router_port)),
        # Who waits holds a connection, and as many again are for those who need not.
        "ROUTER_QUEUE_LIMIT": os.environ.get("ROUTER_QUEUE_LIMIT", str(_queue_limit())),
    }


def _runtime(port: int, settings: Settings, prepared: Prepared, engine: Engine) -> dict[str, str]:
    return {
        **_python_path(),
        "RUNTIME_ENGINE": engine.name,
        "RUNTIME_MODEL": engine.model,
        "RUNTIME_MODEL_VERSION": engine.version,
        "RUNTIME_MODEL_PATH": str(engine.weights or ""),
        "RUNTIME_LISTEN": address(port),
        "RUNTIME_TLS": _tls(settings, "runtime"),
        "RUNTIME_OTLP": address(settings.telemetry_port),
        "RUNTIME_DRAIN_S": str(DRAIN_S),
        "TMPDIR": str(prepared.sockets),  # engines put sockets there; killed, they stay
        **engine.environ,
    }


def own_settings(number: int, variables: Mapping[str, str]) -> dict[str, str]:
    """What is said of one runtime alone: RUNTIME_3_X is RUNTIME_X for the third."""
    prefix = f"RUNTIME_{number}_"
    return {
        f"RUNTIME_{name.removeprefix(prefix)}": value
        for name, value in variables.items()
        if name.startswith(prefix)
    }


def _envoy(settings: Settings, prepared: Prepared) -> Program:
    file = prepared.sockets / "envoy.json"
    file.write_text(
        bootstrap(
            node="local",
            router_socket=_router_socket(prepared),
            check_socket=_check_socket(prepared),
            admin_socket=prepared.sockets / ADMIN,
            open_files=_open_files(),
        )
    )
    ports = f"{settings.mesh_port},{settings.frontend_port}"
    return Program(
        name="envoy",
        command=(
            *(sys.executable, "-m", "deploy.envoy.hand_over", str(prepared.sockets), ports),
            *(str(prepared.envoy), "--config-path", str(file)),
            *("--concurrency", str(settings.envoy_threads), "--log-level", "warning"),
        ),
        group="edge",
        stop_within_s=2,
        environ=_python_path(),
    )


def _queue_limit() -> int:
    return min(QUEUE_LIMIT, check_connections(_open_files()) // 2)


def _open_files() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _router_socket(prepared: Prepared) -> Path:
    return prepared.sockets / "router.sock"


def _check_socket(prepared: Prepared) -> Path:
    return prepared.sockets / "check.sock"


def _tls(settings: Settings, service: str) -> str:
    return str(service_folder(settings.home, service))


def _python_path() -> dict[str, str]:
    return {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'client'}"}
