"""Restarts the programs of a running mesh one after the other, so that no request fails.

Runtimes first, each drained before it is stopped; then policy, telemetry and the router, without
which streams go on and requests wait. Envoy comes last and hands its doors to the next one
(deploy/envoy/hand_over.py). What is started anew has the code that is on disk now, and the settings
with which the mesh was started.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from deploy.envoy.admin import running
from deploy.envoy.hand_over import ADMIN
from deploy.local.control import SOCKET, Control, NoSupervisor
from deploy.local.progress import step
from deploy.local.readiness import raise_if_dying
from deploy.local.settings import Settings, address
from evenflow.connection import Connection
from evenflow.home import service_folder, service_name
from evenflow.router.v1 import router_service_pb2 as pb
from evenflow.router.v1.router_service_pb2_grpc import RouterServiceStub

LOOK_EVERY_S = 0.1
CALL_S = 2.0
DRAINED_WITHIN_S = 3600.0  # no deadline is longer, unless ROUTER_LONGEST_TIMEOUT_S says so
UP_WITHIN_S = 300.0  # an engine may have gigabytes to load
HANDED_OVER_WITHIN_S = 90.0  # longer than hand_over.py waits for a new Envoy
ENVOY = "envoy"


class CannotRestart(Exception):
    """The rest is left as it was; the message says what is in the way."""


def restart(settings: Settings, asked: Sequence[str]) -> None:
    """`asked`: names of programs; none, all of them.

    Raises:
        CannotRestart: no mesh runs here, it has no such program, or one does not get ready.
        ServiceFailed: a program died after its restart.
    """
    # Resolved, because a socket's path must be short, and that of a long home leads to a short one.
    sockets = (settings.home / "run").resolve()
    mesh = _Mesh(settings, sockets, Control(sockets / SOCKET))
    runtimes = {f"runtime-{at}": port for at, port in enumerate(settings.runtime_ports, start=1)}
    restarts: dict[str, Callable[[], None]] = {
        **{name: _runtime(mesh, name, address(port)) for name, port in runtimes.items()},
        "policy": _service(mesh, "policy", settings.policy_port),
        "telemetry": _service(mesh, "telemetry", settings.telemetry_port),
        "router": lambda: _router(mesh),
        ENVOY: lambda: _envoy(mesh),
    }
    unknown = sorted(set(asked) - set(restarts))
    if unknown:
        raise CannotRestart(f"program must be one of {', '.join(restarts)}, got {unknown[0]}")
    mesh.check()
    for name, each in restarts.items():
        if not asked or name in asked:
            with step(name):
                each()


@dataclass(frozen=True, slots=True)
class _Mesh:
    settings: Settings
    sockets: Path
    control: Control

    def check(self) -> None:
        try:
            self.control.states()
        except NoSupervisor as error:
            raise CannotRestart(f"no mesh runs in {self.settings.home}: {error}") from error

    def start_anew(self, name: str) -> None:
        self.control.stop(name)
        self.control.start(name)

    def wait(self, what: str, holds: Callable[[], bool], *, within_s: float) -> None:
        give_up_at_s = time.monotonic() + within_s
        tick = threading.Event()
        while not holds():
            raise_if_dying(self.control.states().values())
            if time.monotonic() > give_up_at_s:
                raise CannotRestart(f"{what} after {within_s:.0f} s")
            tick.wait(LOOK_EVERY_S)

    def endpoints(self) -> pb.ListEndpointsResponse | None:
        """As the router sees them; None while it does not answer."""
        with self.channel("router", self.settings.router_port) as calls:
            try:
                seen: pb.ListEndpointsResponse = RouterServiceStub(calls).ListEndpoints(
                    pb.ListEndpointsRequest(), timeout=CALL_S
                )
            except grpc.RpcError:
                return None
        return seen

    def endpoint(self, wanted: str) -> pb.Endpoint | None:
        seen = self.endpoints()
        known = seen.endpoints if seen else ()
        return next((each for each in known if each.address == wanted), None)

    @contextmanager
    def channel(self, service: str, port: int) -> Iterator[grpc.Channel]:
        folder = service_folder(self.settings.home, "operator")
        with Connection(address(port), folder, service_name(service)).blocking_channel() as calls:
            yield calls


def _runtime(mesh: _Mesh, name: str, at: str) -> Callable[[], None]:
    def drained() -> bool:
        seen = mesh.endpoint(at)
        return seen is not None and seen.state.draining and not _busy(seen)

    def ready() -> bool:
        seen = mesh.endpoint(at)
        return seen is not None and seen.ready

    def one() -> None:
        with mesh.channel("router", mesh.settings.router_port) as calls:
            try:
                RouterServiceStub(calls).DrainEndpoint(
                    pb.DrainEndpointRequest(address=at), timeout=CALL_S
                )
            except grpc.RpcError as error:
                raise CannotRestart(f"the router does not drain {name}: {error}") from error
        mesh.wait(f"{name} still has requests", drained, within_s=DRAINED_WITHIN_S)
        mesh.start_anew(name)
        mesh.wait(f"{name} is not ready", ready, within_s=UP_WITHIN_S)

    return one


def _busy(endpoint: pb.Endpoint) -> bool:
    return bool(endpoint.in_flight or endpoint.state.running or endpoint.state.waiting)


def _service(mesh: _Mesh, name: str, port: int) -> Callable[[], None]:
    def serving() -> bool:
        with mesh.channel(name, port) as calls:
            stub: Any = HealthStub(calls)  # its stubs lack the methods
            try:
                answer = stub.Check(HealthCheckRequest(), timeout=CALL_S)
            except grpc.RpcError:
                return False
        return bool(answer.status == HealthCheckResponse.SERVING)

    def one() -> None:
        mesh.start_anew(name)
        mesh.wait(f"{name} does not serve", serving, within_s=UP_WITHIN_S)

    return one


def _router(mesh: _Mesh) -> None:
    def aware() -> bool:
        seen = mesh.endpoints()
        return bool(seen and seen.policy_version and all(each.ready for each in seen.endpoints))

    mesh.start_anew("router")
    mesh.wait("the router does not know tenants and runtimes", aware, within_s=UP_WITHIN_S)


def _envoy(mesh: _Mesh) -> None:
    admin = mesh.sockets / ADMIN
    before = running(admin)  # None, too, if the last one that should have taken over died

    def handed_over() -> bool:
        seen = running(admin)
        return seen is not None and seen.live and (before is None or seen.epoch != before.epoch)

    mesh.control.signal(ENVOY, "HUP")
    why = "no new Envoy serves (logs/envoy.log says why; an older one may still have clients)"
    mesh.wait(why, handed_over, within_s=HANDED_OVER_WITHIN_S)
