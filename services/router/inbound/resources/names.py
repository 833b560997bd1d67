"""Names by which Envoy's resources refer to each other."""

from envoy_data_plane.envoy.config.core.v3 import (
    AggregatedConfigSource,
    ApiVersion,
    ConfigSource,
    GrpcService,
    GrpcServiceEnvoyGrpc,
)

ROUTER_CLUSTER = "router"  # in the bootstrap: deploy/envoy/bootstrap.py
RUNTIME_CLUSTER = "runtime"
TELEMETRY_CLUSTER = "telemetry"
GATEWAY_SECRET = "gateway"  # noqa: S105 - the name of a resource
AUTHORITIES_SECRET = "authorities"  # noqa: S105 - the name of a resource
MESH = "mesh"
FRONT_END = "frontend"

ENDPOINTS_HEADER = "x-evenflow-endpoints"
REQUEST_ID_HEADER = "x-evenflow-request-id"


def over_ads() -> ConfigSource:
    """Says that a resource comes on the stream that everything comes on."""
    return ConfigSource(ads=AggregatedConfigSource(), resource_api_version=ApiVersion.V3)


def grpc_to(cluster: str) -> GrpcService:
    return GrpcService(
        envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name=cluster, authority=f"{cluster}.evenflow")
    )
