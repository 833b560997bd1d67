"""Envoy's two doors: the mesh's, for certificates, and the front end's, for API keys."""

from datetime import timedelta

from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation as Mutation
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutationRemoveOnMatch
from envoy_data_plane.envoy.config.core.v3 import (
    Http2ProtocolOptions,
    HttpProtocolOptions,
    HttpProtocolOptionsHeadersWithUnderscoresAction,
    KeepaliveSettings,
    TransportSocket,
    TypedExtensionConfig,
)
from envoy_data_plane.envoy.config.listener.v3 import Filter, FilterChain, Listener
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpConnectionManagerInternalAddressConfig,
    Rds,
)
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation.v3 import (
    HeaderMutation,
)
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher
from envoy_data_plane.google.protobuf import Any

from services.router.core.snapshot import DataPlane, HostPort
from services.router.inbound.resources.clusters import tcp
from services.router.inbound.resources.filters import http_filters
from services.router.inbound.resources.local_replies import local_replies
from services.router.inbound.resources.names import FRONT_END, MESH, over_ads
from services.router.inbound.resources.reporting import access_log, tracing
from services.router.inbound.resources.secrets import mutual_tls, server_tls

# Only the router sets these. A request id is ours to make: it names records of one tenant.
OURS = (
    StringMatcher(prefix="x-evenflow-"),
    StringMatcher(prefix="x-envoy-"),
    StringMatcher(exact="x-request-id"),
)
SLACK_S = 60.0  # an idle limit must not fire on a request that still waits in the router's queue
HANDSHAKE_WITHIN = timedelta(seconds=10)


def listeners(plane: DataPlane) -> list[Listener]:
    front_end = server_tls() if plane.front_end_tls else None
    return [
        _listener(MESH, plane.mesh, mutual_tls(plane.trust_domain), plane),
        _listener(FRONT_END, plane.front_end, front_end, plane),
    ]


def _listener(
    name: str, address: HostPort, tls: TransportSocket | None, plane: DataPlane
) -> Listener:
    http = Filter(
        name="envoy.filters.network.http_connection_manager",
        typed_config=Any.pack(_http(name, plane)),
    )
    return Listener(
        name=name,
        address=tcp(address),
        filter_chains=[
            FilterChain(
                filters=[http],
                transport_socket=tls,
                transport_socket_connect_timeout=HANDSHAKE_WITHIN,
            )
        ],
        per_connection_buffer_limit_bytes=plane.body_limit_bytes,  # a body is held whole
    )


def _http(name: str, plane: DataPlane) -> HttpConnectionManager:
    return HttpConnectionManager(
        stat_prefix=name,
        rds=Rds(config_source=over_ads(), route_config_name=name),
        http_filters=http_filters(plane, name),
        access_log=[access_log()],
        tracing=tracing(plane),
        early_header_mutation_extensions=[_nobody_else_says_ours()],
        # Says no more than that no other proxy is in front; loopback counts as internal all the
        # same, so what clients claim is removed above and not left to Envoy's rules of the edge.
        use_remote_address=True,
        internal_address_config=HttpConnectionManagerInternalAddressConfig(),
        always_set_request_id_in_response=True,  # OpenAI's clients report x-request-id
        normalize_path=True,
        local_reply_config=local_replies(),
        server_name="evenflow",
        max_request_headers_kb=32,
        request_headers_timeout=timedelta(seconds=10),
        request_timeout=timedelta(seconds=60),  # until the request's last byte
        stream_idle_timeout=timedelta(seconds=plane.queue_limit_s + SLACK_S),
        common_http_protocol_options=HttpProtocolOptions(
            idle_timeout=timedelta(seconds=plane.idle_limit_s),
            max_headers_count=128,  # 100 of a caller's, and what Envoy and Check add
            headers_with_underscores_action=(
                HttpProtocolOptionsHeadersWithUnderscoresAction.DROP_HEADER
            ),
        ),
        http2_protocol_options=Http2ProtocolOptions(
            max_concurrent_streams=4096,
            initial_stream_window_size=256 << 10,
            initial_connection_window_size=1 << 20,
            # A client that is gone without a word leaves its engine slots within 40 s.
            connection_keepalive=KeepaliveSettings(
                interval=timedelta(seconds=30), timeout=timedelta(seconds=10)
            ),
        ),
    )


def _nobody_else_says_ours() -> TypedExtensionConfig:
    removed = [
        Mutation(remove_on_match=HeaderMutationRemoveOnMatch(key_matcher=matcher))
        for matcher in OURS
    ]
    return TypedExtensionConfig(
        name="envoy.http.early_header_mutation.header_mutation",
        typed_config=Any.pack(HeaderMutation(mutations=removed)),
    )
