"""The router's servers: the two sockets beside Envoy, and the port for operators."""

import asyncio
from collections.abc import Callable

from envoy.service.accesslog.v3.als_pb2_grpc import add_AccessLogServiceServicer_to_server
from envoy.service.discovery.v3.ads_pb2_grpc import (
    add_AggregatedDiscoveryServiceServicer_to_server,
)

from evenflow.openai.v1.models_service_pb2_grpc import add_ModelsServiceServicer_to_server
from evenflow.router.v1.peer_service_pb2_grpc import add_PeerServiceServicer_to_server
from evenflow.router.v1.router_service_pb2_grpc import add_RouterServiceServicer_to_server
from services.chassis.identity import TlsFiles
from services.chassis.interception import Interceptor, Wrapped
from services.chassis.server import Server, grpc_server
from services.chassis.status import Statuses
from services.router.core.admission import TimeLimits
from services.router.core.models import Catalogue
from services.router.inbound import models, operator, peers
from services.router.inbound.access_log import AccessLogServicer
from services.router.inbound.check import Check
from services.router.inbound.check_socket import CheckSocket
from services.router.inbound.discovery import Discovery
from services.router.inbound.mesh import Mesh
from services.router.inbound.replaying import ERRORS as REPLAY_ERRORS
from services.router.inbound.replaying import Replaying, add_replaying_to_server

_DATA_PLANE = (  # what callers see through Envoy, for health and reflection
    "evenflow.inference.v1.InferenceService",
    "evenflow.openai.v1.ChatService",
    "evenflow.openai.v1.ModelsService",
)
_GRACE_S = 5.0  # an access log's word is 100 ms late; later than this, it is lost


def check_socket(mesh: Mesh, limits: TimeLimits) -> CheckSocket:
    """For a unix socket that Envoy alone can reach."""
    clock = asyncio.get_running_loop().time
    return CheckSocket(Check(mesh, limits, grace_s=_GRACE_S, clock=clock))


def sidecar_server(
    mesh: Mesh,
    catalogue: Catalogue,
    *,
    discovery: Discovery,
    access_log: AccessLogServicer,
) -> Server:
    """For a unix socket that Envoy alone can reach. What it calls itself goes bare."""
    clock = asyncio.get_running_loop().time
    server = grpc_server(
        errors=models.ERRORS, callers=None, tls=None, services=_DATA_PLANE, bare=True
    )
    add_AccessLogServiceServicer_to_server(access_log, server.grpc)
    add_AggregatedDiscoveryServiceServicer_to_server(discovery, server.grpc)
    replaying = Replaying(mesh.caching.replays)
    add_replaying_to_server(replaying, Wrapped(server.grpc, Interceptor([Statuses(REPLAY_ERRORS)])))
    listed = models.Models(mesh.policy, mesh.endpoints, catalogue, clock)
    models.add_models_to_server(models.ModelsServicer(listed), server.wrapped)
    add_ModelsServiceServicer_to_server(models.OpenAIModelsServicer(listed), server.wrapped)
    return server


def operator_server(
    mesh: Mesh, tls: TlsFiles, empty: Callable[[str], None], told: peers.PeerServicer
) -> Server:
    """For operators, and for other routers."""
    clock = asyncio.get_running_loop().time
    server = grpc_server(
        errors=operator.ERRORS,
        callers={**operator.CALLERS, **peers.CALLERS},
        tls=tls,
        services=[operator.SERVICE, peers.SERVICE],
        audit=lambda call: mesh.audit.called(call, clock()),
    )
    servicer = operator.OperatorServicer(mesh, empty)
    add_RouterServiceServicer_to_server(servicer, server.grpc)
    add_PeerServiceServicer_to_server(told, server.grpc)
    return server
