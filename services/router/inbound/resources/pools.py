"""The wall around pools in Envoy itself: a request reaches only runtimes of its own pool.

The router lists addresses of that pool alone. But Envoy picks for itself once all of them have been
tried or are gone, and then it must not pick across the wall: its own choice is confined to the
endpoints that have the request's pool in their metadata, and none is none.
"""

from envoy_data_plane.envoy.config.cluster.v3 import (
    LoadBalancingPolicy,
    LoadBalancingPolicyPolicy,
)
from envoy_data_plane.envoy.config.core.v3 import Metadata, TypedExtensionConfig
from envoy_data_plane.envoy.extensions.filters.http.header_to_metadata.v3 import (
    Config,
    ConfigKeyValuePair,
    ConfigRule,
)
from envoy_data_plane.envoy.extensions.load_balancing_policies.round_robin.v3 import RoundRobin
from envoy_data_plane.envoy.extensions.load_balancing_policies.subset.v3 import (
    Subset,
    SubsetLbSubsetSelector,
)
from envoy_data_plane.google.protobuf import Any, Struct, Value

POOL_HEADER = "x-evenflow-pool"  # of Check's answer; none: the shared pool
_NAMESPACE = "envoy.lb"  # where Envoy looks for what confines a choice
_KEY = "pool"
_SHARED = "(shared)"  # no pool's name: those have no parentheses


def pool_of_request() -> Config:
    """A filter after Check."""
    present = ConfigKeyValuePair(metadata_namespace=_NAMESPACE, key=_KEY)
    missing = ConfigKeyValuePair(metadata_namespace=_NAMESPACE, key=_KEY, value=_SHARED)
    rule = ConfigRule(header=POOL_HEADER, on_header_present=present, on_header_missing=missing)
    return Config(request_rules=[rule])


def pool_of_endpoint(pool: str) -> Metadata:
    value = Value(string_value=pool or _SHARED)
    return Metadata(filter_metadata={_NAMESPACE: Struct(fields={_KEY: value})})


def within_the_pool() -> LoadBalancingPolicy:
    inside = _policy("round_robin", RoundRobin())
    selector = SubsetLbSubsetSelector(keys=[_KEY])
    return _policy("subset", Subset(subset_selectors=[selector], subset_lb_policy=inside))


def _policy(name: str, policy: Subset | RoundRobin) -> LoadBalancingPolicy:
    config = TypedExtensionConfig(
        name=f"envoy.load_balancing_policies.{name}", typed_config=Any.pack(policy)
    )
    return LoadBalancingPolicy(policies=[LoadBalancingPolicyPolicy(typed_extension_config=config)])
