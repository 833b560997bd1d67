"""Whom Envoy calls over the network: the runtimes, picked by the router, and telemetry."""

from collections.abc import Iterable, Mapping
from datetime import timedelta

from envoy_data_plane.envoy.config.cluster.v3 import (
    CircuitBreakers,
    CircuitBreakersThresholds,
    CircuitBreakersThresholdsRetryBudget,
    Cluster,
    ClusterDiscoveryType,
    ClusterEdsClusterConfig,
    LoadBalancingPolicy,
    LoadBalancingPolicyPolicy,
)
from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    Http2ProtocolOptions,
    KeepaliveSettings,
    SocketAddress,
    TypedExtensionConfig,
)
from envoy_data_plane.envoy.config.endpoint.v3 import (
    ClusterLoadAssignment,
    Endpoint,
    LbEndpoint,
    LocalityLbEndpoints,
)
from envoy_data_plane.envoy.extensions.load_balancing_policies.override_host.v3 import (
    OverrideHost,
    OverrideHostOverrideHostSource,
)
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptions,
    HttpProtocolOptionsExplicitHttpConfig,
)
from envoy_data_plane.envoy.type.v3 import Percent
from envoy_data_plane.google.protobuf import Any

from services.router.core.snapshot import DataPlane, HostPort
from services.router.inbound.resources.names import (
    ENDPOINTS_HEADER,
    RUNTIME_CLUSTER,
    TELEMETRY_CLUSTER,
    over_ads,
)
from services.router.inbound.resources.pools import pool_of_endpoint, within_the_pool
from services.router.inbound.resources.secrets import tls_to

CONNECT_TIMEOUT = timedelta(seconds=1)
# What Envoy holds of an answer whose reader is slow, before the runtime must wait. All streams to a
# runtime share a connection, and those that nobody reads must not use up its window.
STREAM_WINDOW = 256 << 10
CONNECTION_WINDOW = 1 << 30
UNLIMITED = 1_000_000  # the router's own queue has the limits; Envoy's default is 1,024 requests
# Of all attempts under way one in five may be a retry or a hedge: a quarter more attempts than
# requests at most, of which hedges take a tenth. So many may be whatever their share, for the death
# of a runtime in a small mesh.
RETRIES_PERCENT = 20.0
RETRIES_ALWAYS = 32
# A runtime that is frozen or cut off is noticed 0.5 to 0.73 s after its last word: what it has not
# begun to answer moves on, what it has ends. Its gRPC core answers pings in threads of its own,
# without Python, so a busy runtime is no frozen one. Envoy's jitter, 15 %, stays.
_RUNTIME_PINGS = KeepaliveSettings(
    interval=timedelta(milliseconds=200), timeout=timedelta(milliseconds=500)
)
_TELEMETRY_PINGS = KeepaliveSettings(interval=timedelta(seconds=15), timeout=timedelta(seconds=5))


def clusters(plane: DataPlane) -> list[Cluster]:
    telemetry = [] if plane.telemetry is None else [_telemetry(plane.telemetry, plane.trust_domain)]
    return [_runtime(plane.trust_domain), *telemetry]


def load_assignments(
    endpoints: Iterable[HostPort], pools: Mapping[HostPort, str]
) -> list[ClusterLoadAssignment]:
    """Runtimes that Envoy may reach. One that is left out loses no stream that runs."""
    members = [
        LbEndpoint(
            endpoint=Endpoint(address=tcp(each)), metadata=pool_of_endpoint(pools.get(each, ""))
        )
        for each in sorted(endpoints)
    ]
    return [_of_members(RUNTIME_CLUSTER, members)]


def _runtime(trust_domain: str) -> Cluster:
    return Cluster(
        name=RUNTIME_CLUSTER,
        type=ClusterDiscoveryType.EDS,
        eds_cluster_config=ClusterEdsClusterConfig(eds_config=over_ads()),
        connect_timeout=CONNECT_TIMEOUT,
        load_balancing_policy=_as_the_router_says(),
        circuit_breakers=_unlimited(_retry_budget()),
        transport_socket=tls_to("runtime", trust_domain),
        typed_extension_protocol_options=_http2(_RUNTIME_PINGS),
    )


def _telemetry(address: HostPort, trust_domain: str) -> Cluster:
    return Cluster(
        name=TELEMETRY_CLUSTER,
        type=ClusterDiscoveryType.STRICT_DNS,  # takes addresses as well as names
        connect_timeout=CONNECT_TIMEOUT,
        load_assignment=_assignment(TELEMETRY_CLUSTER, [address]),
        circuit_breakers=_unlimited(),
        transport_socket=tls_to("telemetry", trust_domain),
        typed_extension_protocol_options=_http2(_TELEMETRY_PINGS),
    )


def _as_the_router_says() -> LoadBalancingPolicy:
    """The header's first address, and for each retry the next one.

    The fall-back serves a request whose every address has been tried, or has left the endpoint set
    since it was picked.
    """
    override = OverrideHost(
        override_host_sources=[OverrideHostOverrideHostSource(header=ENDPOINTS_HEADER)],
        fallback_policy=within_the_pool(),
    )
    config = TypedExtensionConfig(
        name="envoy.load_balancing_policies.override_host", typed_config=Any.pack(override)
    )
    return LoadBalancingPolicy(policies=[LoadBalancingPolicyPolicy(typed_extension_config=config)])


def _unlimited(
    retries: CircuitBreakersThresholdsRetryBudget | None = None,
) -> CircuitBreakers:
    thresholds = CircuitBreakersThresholds(
        max_connections=UNLIMITED,
        max_pending_requests=UNLIMITED,
        max_requests=UNLIMITED,
        max_retries=UNLIMITED,
        retry_budget=retries,
    )
    return CircuitBreakers(thresholds=[thresholds])


def _retry_budget() -> CircuitBreakersThresholdsRetryBudget:
    return CircuitBreakersThresholdsRetryBudget(
        budget_percent=Percent(value=RETRIES_PERCENT), min_retry_concurrency=RETRIES_ALWAYS
    )


def _http2(pings: KeepaliveSettings) -> dict[str, Any]:
    options = HttpProtocolOptions(
        explicit_http_config=HttpProtocolOptionsExplicitHttpConfig(
            http2_protocol_options=Http2ProtocolOptions(
                connection_keepalive=pings,
                initial_stream_window_size=STREAM_WINDOW,
                initial_connection_window_size=CONNECTION_WINDOW,
            )
        )
    )
    return {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": Any.pack(options)}


def _assignment(cluster: str, endpoints: Iterable[HostPort]) -> ClusterLoadAssignment:
    return _of_members(
        cluster, [LbEndpoint(endpoint=Endpoint(address=tcp(at))) for at in endpoints]
    )


def _of_members(cluster: str, members: list[LbEndpoint]) -> ClusterLoadAssignment:
    return ClusterLoadAssignment(
        cluster_name=cluster, endpoints=[LocalityLbEndpoints(lb_endpoints=members)]
    )


def tcp(address: HostPort) -> Address:
    return Address(socket_address=SocketAddress(address=address.host, port_value=address.port))
