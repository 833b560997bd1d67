"""Envoy's bootstrap names the router's socket and nothing of the network."""

import json
from pathlib import Path

from deploy.envoy.bootstrap import bootstrap


def test_the_bootstrap_names_two_sockets_and_no_port() -> None:
    written = bootstrap(
        node="one", router_socket=Path("/run/router.sock"), admin_socket=Path("/run/admin.sock")
    )

    read = json.loads(written)
    assert read["node"]["id"] == "one"
    assert read["admin"]["address"]["pipe"]["path"] == "/run/admin.sock"
    (router,) = read["static_resources"]["clusters"]
    (locality,) = router["load_assignment"]["endpoints"]
    (endpoint,) = locality["lb_endpoints"]
    assert endpoint["endpoint"]["address"] == {"pipe": {"path": "/run/router.sock"}}
    assert "socket_address" not in written
