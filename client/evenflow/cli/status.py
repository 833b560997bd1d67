"""`evenflow status`: which services answer, which endpoints serve what, and how busy they are."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, cast

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.console import Console
from rich.table import Table

from evenflow.cli.tables import table
from evenflow.cli.where import Where
from evenflow.errors import FailedCall, error_of
from evenflow.router.v1 import router_service_pb2 as pb
from evenflow.router.v1.router_service_pb2_grpc import RouterServiceStub
from evenflow.runtime.v1 import runtime_service_pb2 as runtime

CALL_S = 2.0


def status(where: Where, ports: Mapping[str, int]) -> None:
    """Raises Unreachable when the router itself does not answer."""
    console = Console(highlight=False)
    with where.service("router", ports["router"]) as channel:
        seen = _endpoints(channel)
    services = table("service", "address", "health")
    for name, port in ports.items():
        services.add_row(name, f"{where.host}:{port}", _health(where, name, port))
    console.print(services)
    console.print(endpoints_table(seen))
    console.print(models_table(seen))
    console.print(f"policy version {seen.policy_version or '(none yet)'}")


def endpoints_table(seen: pb.ListEndpointsResponse) -> Table:
    """Fits 80 columns."""
    shown = table("endpoint", "state", "running", "waiting", "in flight", "KV used", "cached")
    for endpoint in seen.endpoints:
        state = endpoint.state
        shown.add_row(
            endpoint.address,
            _condition(endpoint),
            f"{state.running}/{state.max_running}",
            str(state.waiting),
            f"{endpoint.in_flight_tokens} tokens",
            _share(state.kv_blocks_total - state.kv_blocks_free, state.kv_blocks_total),
            _share(state.prefix_cache_hit_tokens, state.prefix_cache_query_tokens),
        )
    return shown


def models_table(seen: pb.ListEndpointsResponse) -> Table:
    """One row for each model version and readiness, with how many endpoints have it."""
    rows = Counter(
        (each.model, each.version, endpoint.state.engine, _readiness(each))
        for endpoint in seen.endpoints
        for each in endpoint.state.models
    )
    shown = table("model", "version", "engine", "readiness", "endpoints")
    for row, endpoints in sorted(rows.items()):
        shown.add_row(*row, str(endpoints))
    return shown


def _endpoints(channel: grpc.Channel) -> pb.ListEndpointsResponse:
    try:
        response: pb.ListEndpointsResponse = RouterServiceStub(channel).ListEndpoints(
            pb.ListEndpointsRequest(), timeout=CALL_S
        )
    except grpc.RpcError as error:
        raise error_of(cast(FailedCall, error)) from error
    return response


def _health(where: Where, name: str, port: int) -> str:
    with where.service(name, port) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)  # its stubs lack the methods
        try:
            response = stub.Check(health_pb2.HealthCheckRequest(), timeout=CALL_S)
        except grpc.RpcError as error:
            return cast(FailedCall, error).code().name.lower()
    status: str = health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
    return status.lower()


def _condition(endpoint: pb.Endpoint) -> str:
    if not endpoint.reachable:
        return "unreachable"
    if endpoint.state.draining:
        return "draining"
    if not endpoint.ready:
        return "not ready"
    return endpoint.left_out.partition(":")[0] or "ready"


def _readiness(state: runtime.ModelState) -> str:
    return runtime.Readiness.Name(state.readiness).removeprefix("READINESS_").lower()


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "-"
