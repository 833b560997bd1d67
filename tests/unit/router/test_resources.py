"""What is built for Envoy. Whether Envoy takes it, tests/integration/envoy/ shows."""

from dataclasses import replace

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.ext_authz.v3.ext_authz_pb2 import ExtAuthz
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import UpstreamTlsContext

from services.router.core.snapshot import DataPlane, HostPort, Snapshot, TlsMaterial
from services.router.inbound.resources.build import (
    CLUSTERS,
    LISTENERS,
    LOAD_ASSIGNMENTS,
    ROUTES,
    SECRETS,
    resources_of,
)
from services.router.inbound.resources.filters import CHECK
from services.router.inbound.resources.names import CACHED_HEADER, ROUTER_CLUSTER

PLANE = DataPlane(
    trust_domain="evenflow.local",
    mesh=HostPort("127.0.0.1", 8443),
    front_end=HostPort("127.0.0.1", 8080),
    descriptors=b"image",
)
SNAPSHOT = Snapshot(PLANE, TlsMaterial(b"certificate", b"key", b"authorities"))
A, B = HostPort("10.0.0.1", 9101), HostPort("10.0.0.2", 9101)


def checking(listener: bytes) -> ExtAuthz:
    manager, check = hcm_pb2.HttpConnectionManager(), ExtAuthz()
    http = Listener.FromString(listener).filter_chains[0].filters[0]
    assert http.typed_config.Unpack(manager)
    (found,) = (each for each in manager.http_filters if each.name == CHECK)
    assert found.typed_config.Unpack(check)
    return check


def test_equal_snapshots_give_equal_bytes() -> None:
    one = resources_of(replace(SNAPSHOT, endpoints=(A, B)))
    other = resources_of(replace(SNAPSHOT, endpoints=(B, A)))

    assert one == other


def test_an_endpoint_that_comes_changes_one_type_only() -> None:
    before = resources_of(SNAPSHOT)
    after = resources_of(replace(SNAPSHOT, endpoints=(A,)))

    assert [url for url in before if before[url] != after[url]] == [LOAD_ASSIGNMENTS]


def test_certificates_that_rotate_change_one_type_only() -> None:
    before = resources_of(SNAPSHOT)
    after = resources_of(replace(SNAPSHOT, tls=TlsMaterial(b"new", b"key", b"authorities")))

    assert [url for url in before if before[url] != after[url]] == [SECRETS]


def test_every_endpoint_is_an_address_of_the_runtimes() -> None:
    built = resources_of(replace(SNAPSHOT, endpoints=(A, B)))[LOAD_ASSIGNMENTS]["runtime"]

    (locality,) = ClusterLoadAssignment.FromString(built).endpoints
    sockets = [each.endpoint.address.socket_address for each in locality.lb_endpoints]
    assert [(each.address, each.port_value) for each in sockets] == [
        ("10.0.0.1", 9101),
        ("10.0.0.2", 9101),
    ]


def test_only_a_runtime_of_the_trust_domain_is_connected_to() -> None:
    cluster = Cluster.FromString(resources_of(SNAPSHOT)[CLUSTERS]["runtime"])

    tls = UpstreamTlsContext()
    assert cluster.transport_socket.typed_config.Unpack(tls)
    validation = tls.common_tls_context.combined_validation_context.default_validation_context
    (peer,) = validation.match_typed_subject_alt_names
    assert peer.matcher.exact == "spiffe://evenflow.local/service/runtime"


def test_the_mesh_listener_always_wants_tls_and_the_front_end_if_told_to() -> None:
    with_tls = replace(SNAPSHOT, data_plane=replace(PLANE, front_end_tls=True))
    for snapshot, expected in ((SNAPSHOT, [True, False]), (with_tls, [True, True])):
        built = resources_of(snapshot)[LISTENERS]
        listeners = [Listener.FromString(built[name]) for name in ("mesh", "frontend")]
        assert [
            each.filter_chains[0].HasField("transport_socket") for each in listeners
        ] == expected


def test_nothing_is_traced_without_telemetry() -> None:
    built = resources_of(SNAPSHOT)

    assert "telemetry" not in built[CLUSTERS]
    assert b"opentelemetry" not in built[LISTENERS]["mesh"]


def test_hits_go_to_the_router_and_only_a_cache_costs_a_second_look_at_the_routes() -> None:
    keeping = replace(SNAPSHOT, data_plane=replace(SNAPSHOT.data_plane, response_cache=True))

    for snapshot, looks in ((SNAPSHOT, False), (keeping, True)):
        built = resources_of(snapshot)
        first = RouteConfiguration.FromString(built[ROUTES]["mesh"]).virtual_hosts[0].routes[0]
        assert first.match.headers[1].name == CACHED_HEADER
        assert first.route.cluster == ROUTER_CLUSTER
        assert checking(built[LISTENERS]["mesh"]).clear_route_cache is looks


def test_each_listener_has_its_routes_and_secrets_have_their_names() -> None:
    built = resources_of(SNAPSHOT)

    for name, message in built[ROUTES].items():
        assert RouteConfiguration.FromString(message).name == name
    assert list(built[ROUTES]) == list(built[LISTENERS]) == ["mesh", "frontend"]
    own = Secret.FromString(built[SECRETS]["gateway"])
    assert own.tls_certificate.private_key.inline_bytes == b"key"
