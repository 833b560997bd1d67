"""Waits until the whole way from a client to a runtime is open, and says what is in the way."""

import threading
import time
from collections.abc import Iterable

import grpc

from deploy.local.certificates import TENANTS
from deploy.local.control import ProgramState
from deploy.local.settings import Settings, address
from deploy.local.supervision import Supervisor
from evenflow.blocking import BlockingClient
from evenflow.connection import Connection
from evenflow.errors import EvenflowError
from evenflow.home import service_folder, service_name, tenant_folder
from evenflow.router.v1 import router_service_pb2 as pb
from evenflow.router.v1.router_service_pb2_grpc import RouterServiceStub

LOOK_EVERY_S = 0.25  # a look costs 20 ms of a core that the services need to start
CALL_S = 2.0
DYING = frozenset({"BACKOFF", "EXITED", "FATAL"})


class ServiceFailed(Exception):
    """A program did not come up, or gave up; `program` is its name."""

    def __init__(self, program: str, message: str) -> None:
        super().__init__(message)
        self.program = program


def wait_until_ready(
    supervisor: Supervisor, settings: Settings, *, model: str, within_s: float
) -> None:
    """Returns when the model can be called through Envoy and every runtime is ready.

    Raises:
        ServiceFailed: a program died, or is not ready in time.
        SupervisorDied: there is nobody left to start them.
    """
    give_up_at_s = time.monotonic() + within_s
    tick = threading.Event()
    while True:
        raise_if_dying(supervisor.states().values())
        missing = _missing(settings, model)
        if missing is None:
            return
        program, why = missing
        if time.monotonic() > give_up_at_s:
            raise ServiceFailed(program, f"{program} is not ready after {within_s:.0f} s: {why}")
        tick.wait(LOOK_EVERY_S)


def raise_if_dying(states: Iterable[ProgramState]) -> None:
    for state in states:
        if state.status in DYING:
            raise ServiceFailed(state.name, f"{state.name} did not stay up")


def _missing(settings: Settings, model: str) -> tuple[str, str] | None:
    """The first program that keeps a request from being answered, and what it lacks."""
    try:
        seen = _endpoints(settings)
    except grpc.RpcError:
        return "router", "it does not answer"
    if not seen.policy_version:
        return "policy", "the router has no tenants from it"
    ready = {endpoint.address for endpoint in seen.endpoints if endpoint.ready}
    for at, port in enumerate(settings.runtime_ports, start=1):
        if address(port) not in ready:
            return f"runtime-{at}", "its model is not loaded"
    try:
        return None if model in _models(settings) else ("envoy", f"it serves no {model}")
    except EvenflowError as error:
        return "envoy", str(error)


def _endpoints(settings: Settings) -> pb.ListEndpointsResponse:
    folder = service_folder(settings.home, "operator")
    reached = Connection(address(settings.router_port), folder, service_name("router"))
    with reached.blocking_channel() as channel:
        response: pb.ListEndpointsResponse = RouterServiceStub(channel).ListEndpoints(
            pb.ListEndpointsRequest(), timeout=CALL_S
        )
    return response


def _models(settings: Settings) -> set[str]:
    folder = tenant_folder(settings.home, TENANTS[0])
    with BlockingClient(address(settings.mesh_port), certificate_folder=folder) as client:
        return {each.name for each in client.list_models(deadline_s=CALL_S)}
