"""Names by which Envoy's resources refer to each other."""

from datetime import timedelta

from envoy_data_plane.envoy.config.core.v3 import (
    AggregatedConfigSource,
    ApiVersion,
    BackoffStrategy,
    ConfigSource,
    GrpcService,
    GrpcServiceEnvoyGrpc,
    RetryPolicy,
)

ROUTER_CLUSTER = "router"  # in the bootstrap: deploy/envoy/bootstrap.py
CHECK_CLUSTER = "check"  # likewise
RUNTIME_CLUSTER = "runtime"
TELEMETRY_CLUSTER = "telemetry"
GATEWAY_SECRET = "gateway"  # noqa: S105 - the name of a resource
AUTHORITIES_SECRET = "authorities"  # noqa: S105 - the name of a resource
MESH = "mesh"
FRONT_END = "frontend"

ENDPOINTS_HEADER = "x-evenflow-endpoints"
REQUEST_ID_HEADER = "x-evenflow-request-id"
PROMPT_HEADER = "x-evenflow-prompt"  # which version of a prompt, to runtimes and callers
CACHED_HEADER = "x-evenflow-cached"  # by Check alone: the router answers, and not a runtime

# A router that is started again is back in 2 to 3 s. Until then what calls it waits: 40 tries with
# up to 0.5 s between them, 10 s or so. Not `reset`: a frozen router takes connections and never
# answers, so each call would wait for as many pings to fail. All of these are asked again safely.
RETRY_ROUTER_ON = "connect-failure,refused-stream,reset-before-request,unavailable"
ROUTER_TRIES = 40
ROUTER_TRY_AFTER = timedelta(milliseconds=100)
ROUTER_TRY_AFTER_MOST = timedelta(milliseconds=500)


def over_ads() -> ConfigSource:
    """Says that a resource comes on the stream that everything comes on."""
    return ConfigSource(ads=AggregatedConfigSource(), resource_api_version=ApiVersion.V3)


def grpc_to(cluster: str) -> GrpcService:
    return GrpcService(
        envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name=cluster, authority=f"{cluster}.evenflow")
    )


def until_the_router_is_back(*, retry_on: str = RETRY_ROUTER_ON) -> RetryPolicy:
    return RetryPolicy(
        retry_on=retry_on,
        num_retries=ROUTER_TRIES,
        retry_back_off=BackoffStrategy(
            base_interval=ROUTER_TRY_AFTER, max_interval=ROUTER_TRY_AFTER_MOST
        ),
    )
