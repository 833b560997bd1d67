"""The README's table is the config, and a wrong environment is refused whole."""

from pathlib import Path

import pytest

from services.chassis.environ import InvalidConfig
from services.router.config import Config
from tests.config_table import documented, expected

ENVIRON = {
    "ROUTER_SOCKET": "run/router.sock",
    "ROUTER_CHECK_SOCKET": "run/check.sock",
    "ROUTER_OPERATOR_LISTEN": "127.0.0.1:9010",
    "ROUTER_MESH_LISTEN": "127.0.0.1:8443",
    "ROUTER_FRONTEND_LISTEN": "127.0.0.1:8080",
    "ROUTER_RUNTIMES": "127.0.0.1:9101,127.0.0.1:9102",
    "ROUTER_POLICY": "127.0.0.1:9020",
    "ROUTER_TLS": "certs/router",
    "ROUTER_GATEWAY_TLS": "certs/gateway",
    "ROUTER_SALT_SECRET_FILE": "salt",
    "ROUTER_KEY_SECRET_FILE": "key-secret",
    "ROUTER_AUDIT_SPOOL": "spool",
}


def test_the_readme_documents_every_variable() -> None:
    assert documented(Path("services/router/README.md")) == expected(Config, "ROUTER")


def test_the_required_variables_are_enough() -> None:
    config = Config.from_environ(ENVIRON)

    assert [each.port for each in config.runtimes] == [9101, 9102]
    assert config.telemetry is None


@pytest.mark.parametrize(
    ("variable", "value", "problem"),
    [
        ("ROUTER_RUNTIMES", ",", "at least one address"),
        ("ROUTER_RUNTIMES", "nowhere", "ROUTER_RUNTIMES: must be host:port"),
        ("ROUTER_LONGEST_TIMEOUT_S", "90000", "at most 86400"),
        ("ROUTER_POLICY_STALE_S", "0", "must be above 0"),
        ("ROUTER_HEDGE_SHARE", "0.11", "hedge_share must be at most 0.1, got 0.11"),
        ("ROUTER_HEDGE_SHARE", "5", "ROUTER_HEDGE_SHARE: must be from 0 to 1"),
    ],
)
def test_a_wrong_value_is_refused_by_name(variable: str, value: str, problem: str) -> None:
    with pytest.raises(InvalidConfig, match=problem):
        Config.from_environ({**ENVIRON, variable: value})
