"""Envoy's bootstrap names the router's sockets and nothing of the network."""

import json
from pathlib import Path
from typing import Any

from deploy.envoy.bootstrap import MAX_CHECK_CONNECTIONS, bootstrap


def written(**changes: Any) -> str:
    return bootstrap(
        node="one",
        router_socket=Path("/run/router.sock"),
        check_socket=Path("/run/check.sock"),
        admin_socket=Path("/run/admin.sock"),
        **changes,
    )


def clusters(**changes: Any) -> dict[str, Any]:
    read = json.loads(written(**changes))["static_resources"]["clusters"]
    return {each["name"]: each for each in read}


def socket_of(cluster: dict[str, Any]) -> str:
    (locality,) = cluster["load_assignment"]["endpoints"]
    (endpoint,) = locality["lb_endpoints"]
    path: str = endpoint["endpoint"]["address"]["pipe"]["path"]
    return path


def test_the_bootstrap_names_three_sockets_and_no_port() -> None:
    read = json.loads(written())

    assert read["node"]["id"] == "one"
    assert read["admin"]["address"]["pipe"]["path"] == "/run/admin.sock"
    assert {name: socket_of(each) for name, each in clusters().items()} == {
        "router": "/run/router.sock",
        "check": "/run/check.sock",
    }
    assert "socket_address" not in written()


def test_a_router_that_does_not_answer_is_not_believed_to_be_well() -> None:
    check = clusters()["check"]

    (asked,) = check["health_checks"]
    assert asked["http_health_check"] == {"path": "/health"}
    assert check["common_lb_config"]["healthy_panic_threshold"]["value"] == 0


def test_questions_have_connections_and_leave_some_to_callers() -> None:
    def connections(files: int) -> int:
        (limits,) = clusters(open_files=files)["check"]["circuit_breakers"]["thresholds"]
        most: int = limits["max_connections"]
        return most

    assert connections(1_000_000) == MAX_CHECK_CONNECTIONS
    assert connections(1_024) == 256
