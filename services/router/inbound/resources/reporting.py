"""What Envoy tells about a request: spans to telemetry, its end to the router. No bodies."""

from datetime import timedelta

from envoy_data_plane.envoy.config.accesslog.v3 import (
    AccessLog,
    AccessLogFilter,
    AndFilter,
    HeaderFilter,
    LogTypeFilter,
)
from envoy_data_plane.envoy.config.core.v3 import ApiVersion
from envoy_data_plane.envoy.config.route.v3 import HeaderMatcher
from envoy_data_plane.envoy.config.trace.v3 import OpenTelemetryConfig, TracingHttp
from envoy_data_plane.envoy.data.accesslog.v3 import AccessLogType
from envoy_data_plane.envoy.extensions.access_loggers.grpc.v3 import (
    CommonGrpcAccessLogConfig,
    HttpGrpcAccessLogConfig,
)
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManagerTracing,
)
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher
from envoy_data_plane.envoy.type.v3 import Percent
from envoy_data_plane.google.protobuf import Any

from services.router.core.snapshot import DataPlane
from services.router.degradations import DEGRADATIONS_HEADER
from services.router.inbound.resources.names import (
    REQUEST_ID_HEADER,
    ROUTER_CLUSTER,
    TELEMETRY_CLUSTER,
    grpc_to,
    until_the_router_is_back,
)

# How late the router hears of an end. Each batch wakes several threads of the router's; at 20 ms
# nearly every entry travels alone (docs/performance.md).
FLUSH = timedelta(milliseconds=100)
LOGGED_REQUEST_HEADERS = (REQUEST_ID_HEADER, "x-evenflow-tenant", "x-envoy-attempt-count")
# As trailers of an answer, or as headers of one that failed before its first token.
LOGGED_ANSWER = (
    "grpc-status",
    "x-evenflow-reason",
    "x-evenflow-prompt-tokens",
    "x-evenflow-cached-tokens",
    "x-evenflow-output-tokens",
    "x-evenflow-model-version",
    "x-evenflow-engine",
    "x-evenflow-attempt",
    DEGRADATIONS_HEADER,
)


def access_log() -> AccessLog:
    config = HttpGrpcAccessLogConfig(
        common_config=_to_the_router("evenflow"),
        additional_request_headers_to_log=list(LOGGED_REQUEST_HEADERS),
        additional_response_headers_to_log=list(LOGGED_ANSWER),
        additional_response_trailers_to_log=list(LOGGED_ANSWER),
    )
    return AccessLog(name="envoy.access_loggers.http_grpc", typed_config=Any.pack(config))


def arms_log() -> AccessLog:
    """Each attempt after the first, as it is sent: a hedge is paid for before its request ends."""
    config = HttpGrpcAccessLogConfig(
        common_config=_to_the_router("evenflow-arms"),
        additional_request_headers_to_log=[REQUEST_ID_HEADER],
    )
    after_the_first = HeaderMatcher(
        name="x-envoy-attempt-count", string_match=StringMatcher(exact="1"), invert_match=True
    )
    is_sent = AccessLogFilter(
        log_type_filter=LogTypeFilter(types=[AccessLogType.UpstreamPoolReady])
    )
    is_another = AccessLogFilter(header_filter=HeaderFilter(header=after_the_first))
    return AccessLog(
        name="envoy.access_loggers.http_grpc",
        typed_config=Any.pack(config),
        filter=AccessLogFilter(and_filter=AndFilter(filters=[is_another, is_sent])),
    )


def _to_the_router(name: str) -> CommonGrpcAccessLogConfig:
    return CommonGrpcAccessLogConfig(
        log_name=name,
        grpc_service=grpc_to(ROUTER_CLUSTER),
        grpc_stream_retry_policy=until_the_router_is_back(),
        transport_api_version=ApiVersion.V3,
        buffer_flush_interval=FLUSH,
    )


def tracing(plane: DataPlane) -> HttpConnectionManagerTracing | None:
    """A caller's traceparent decides for itself; the share is of the requests without one."""
    if plane.telemetry is None:
        return None
    config = OpenTelemetryConfig(
        grpc_service=grpc_to(TELEMETRY_CLUSTER), service_name="evenflow-gateway"
    )
    provider = TracingHttp(name="envoy.tracers.opentelemetry", typed_config=Any.pack(config))
    return HttpConnectionManagerTracing(
        provider=provider,
        random_sampling=Percent(value=100.0 * plane.trace_share),
        spawn_upstream_span=True,
    )
