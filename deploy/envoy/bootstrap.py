"""What Envoy must know before it can ask the router for the rest: two unix sockets and a name.

Everything else comes over ADS (services/router/inbound/resources/).
"""

import json
from pathlib import Path
from typing import Any

ROUTER = "router"  # the cluster that every resource which calls the router names
CHECK = "check"  # the cluster of its other socket, for the one question about each request
OPEN_FILES = 65_536
MAX_CONNECTIONS = 20_000  # of clients; above it Envoy refuses rather than run out of memory
# Of half its files; another quarter is for asking the router, which has one question at a time on
# each connection. Questions beyond that wait in Envoy.
MAX_CHECK_CONNECTIONS = 4_096
UNLIMITED = 1_000_000  # a held Check is no overload: the router's own queue has the limits


def bootstrap(
    *,
    node: str,
    router_socket: Path,
    check_socket: Path,
    admin_socket: Path,
    open_files: int = OPEN_FILES,
) -> str:
    """Envoy's start-up configuration, as JSON. `node` names this Envoy in the router's logs;
    `open_files` is how many Envoy, and the router, may have.
    """
    checks = check_connections(open_files)
    # Without a router an Envoy that takes over waits for its configuration, while the one before it
    # serves on; after Envoy's default of 15 s it would take over with no listener at all.
    ads = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
    return json.dumps(
        {
            "node": {"id": node, "cluster": "evenflow"},
            "admin": {"address": {"pipe": {"path": str(admin_socket), "mode": 0o600}}},
            "static_resources": {
                "clusters": [_router(router_socket), _check(check_socket, checks)]
            },
            "dynamic_resources": {
                "ads_config": {
                    "api_type": "GRPC",
                    "transport_api_version": "V3",
                    "grpc_services": [
                        {"envoy_grpc": {"cluster_name": ROUTER, "retry_policy": _RECONNECT}}
                    ],
                },
                "cds_config": ads,
                "lds_config": ads,
            },
            "overload_manager": _overload(min(MAX_CONNECTIONS, open_files // 2)),
            "layered_runtime": {
                "layers": [{"name": "static", "static_layer": {_SPANS_EVERY_MS: 1000}}]
            },
        },
        indent=2,
    )


def check_connections(open_files: int) -> int:
    """Questions that Envoy asks at once."""
    return min(MAX_CHECK_CONNECTIONS, open_files // 4)


def _router(socket: Path) -> dict[str, Any]:
    address = {"address": {"pipe": {"path": str(socket)}}}
    http2: dict[str, Any] = {
        "explicit_http_config": {"http2_protocol_options": {"connection_keepalive": _PINGS}}
    }
    return {
        "name": ROUTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": ROUTER,
            "endpoints": [{"lb_endpoints": [{"endpoint": address}]}],
        },
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": 64,
                    "max_requests": UNLIMITED,
                    "max_pending_requests": UNLIMITED,
                    "max_retries": UNLIMITED,
                }
            ]
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_TYPE}.upstreams.http.v3.HttpProtocolOptions",
                **http2,
            }
        },
    }


def _check(socket: Path, connections: int) -> dict[str, Any]:
    address = {"address": {"pipe": {"path": str(socket)}}}
    most = {
        "max_connections": connections,
        "max_requests": UNLIMITED,
        "max_pending_requests": UNLIMITED,
        "max_retries": UNLIMITED,
    }
    return {
        "name": CHECK,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": CHECK,
            "endpoints": [{"lb_endpoints": [{"endpoint": address}]}],
        },
        "circuit_breakers": {"thresholds": [most]},
        "common_lb_config": {
            "healthy_panic_threshold": {"value": 0},
            "update_merge_window": "0s",  # workers hear that it is well at once, not 1 s later
        },
        "health_checks": [_ASKED_FOR_ITS_HEALTH],
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_TYPE}.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http_protocol_options": {}},
                # A burst needs a connection for each question; they need not stay for Envoy's hour.
                "common_http_protocol_options": {"idle_timeout": "10s"},
            }
        },
    }


def _overload(connections: int) -> dict[str, Any]:
    monitor = "downstream_connections.v3.DownstreamConnectionsConfig"
    return {
        "resource_monitors": [
            {
                "name": "envoy.resource_monitors.global_downstream_max_connections",
                "typed_config": {
                    "@type": f"{_TYPE}.resource_monitors.{monitor}",
                    "max_active_downstream_connections": connections,
                },
            }
        ]
    }


# A router that holds a request answers pings, one that is frozen does not: its callers are refused
# within 2 s, and not when the longest wait in its queue would be over.
_PINGS = {"interval": "1s", "timeout": "1s", "interval_jitter": {"value": 0}}
# A router that has been dead for 10 s, or frozen or with a loop that hangs for 20 s, is not waited
# for: its callers are refused at once, until it answers again. After a failed question Envoy asks
# at the unhealthy interval, whatever the threshold; 10 of them were over before a restart was.
_ASKED_FOR_ITS_HEALTH = {
    "timeout": "0.25s",
    "interval": "1s",
    "no_traffic_interval": "1s",
    "unhealthy_interval": "0.25s",
    "unhealthy_threshold": 40,
    "healthy_threshold": 1,
    "http_health_check": {"path": "/health"},
}
# Envoy's default waits up to 30 s, in which a restarted router could tell it nothing.
_RECONNECT = {"retry_back_off": {"base_interval": "0.1s", "max_interval": "0.5s"}}
_SPANS_EVERY_MS = "tracing.opentelemetry.flush_interval_ms"  # Envoy's default is 5,000
_TYPE = "type.googleapis.com/envoy.extensions"
