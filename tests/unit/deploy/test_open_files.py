"""Envoy's connections stay below the files it may open, whatever these are."""

import json
from pathlib import Path
from typing import Any

import pytest

from deploy.envoy.bootstrap import bootstrap


@pytest.mark.parametrize(
    ("open_files", "clients", "checks"), [(1_024, 512, 256), (65_536, 20_000, 4_096)]
)
def test_half_for_clients_and_a_quarter_to_ask_the_router(
    open_files: int, clients: int, checks: int
) -> None:
    run = Path("/run")
    read: dict[str, Any] = json.loads(
        bootstrap(
            node="one",
            router_socket=run / "router.sock",
            check_socket=run / "check.sock",
            admin_socket=run / "admin.sock",
            open_files=open_files,
        )
    )

    (monitor,) = read["overload_manager"]["resource_monitors"]
    asking = next(each for each in read["static_resources"]["clusters"] if each["name"] == "check")
    assert monitor["typed_config"]["max_active_downstream_connections"] == clients
    assert asking["circuit_breakers"]["thresholds"][0]["max_connections"] == checks
