"""Turns a snapshot into every resource that Envoy asks for, serialized, by type and name."""

from collections.abc import Iterable, Mapping
from functools import lru_cache

from envoy_data_plane.envoy.config.cluster.v3 import Cluster
from envoy_data_plane.envoy.config.listener.v3 import Listener
from envoy_data_plane.envoy.config.route.v3 import RouteConfiguration
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import Secret

from services.router.core.snapshot import DataPlane, Snapshot
from services.router.inbound.resources.clusters import clusters, load_assignments
from services.router.inbound.resources.listeners import listeners
from services.router.inbound.resources.routes import routes
from services.router.inbound.resources.secrets import secrets

_TYPE = "type.googleapis.com/envoy."
CLUSTERS = f"{_TYPE}config.cluster.v3.Cluster"
LOAD_ASSIGNMENTS = f"{_TYPE}config.endpoint.v3.ClusterLoadAssignment"
SECRETS = f"{_TYPE}extensions.transport_sockets.tls.v3.Secret"
LISTENERS = f"{_TYPE}config.listener.v3.Listener"
ROUTES = f"{_TYPE}config.route.v3.RouteConfiguration"
# What others refer to comes first.
TYPES = (CLUSTERS, LOAD_ASSIGNMENTS, SECRETS, LISTENERS, ROUTES)

Resources = Mapping[str, Mapping[str, bytes]]  # type URL -> name -> message


def resources_of(snapshot: Snapshot) -> Resources:
    """Equal snapshots give equal bytes."""
    assignments = load_assignments(snapshot.endpoints, snapshot.pools)
    return {
        **_lasting(snapshot.data_plane),
        LOAD_ASSIGNMENTS: {each.cluster_name: bytes(each) for each in assignments},
        SECRETS: _by_name(secrets(snapshot.tls)),
    }


@lru_cache(maxsize=1)  # building it takes 80 ms, too long for the loop at each endpoint that comes
def _lasting(plane: DataPlane) -> Resources:
    return {
        CLUSTERS: _by_name(clusters(plane)),
        LISTENERS: _by_name(listeners(plane)),
        ROUTES: _by_name(routes(plane)),
    }


def _by_name(
    messages: Iterable[Cluster | Secret | Listener | RouteConfiguration],
) -> dict[str, bytes]:
    return {each.name: bytes(each) for each in messages}
