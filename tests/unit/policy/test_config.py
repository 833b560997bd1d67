"""The README's table is the config, and a wrong environment is refused whole."""

from pathlib import Path

import pytest

from services.chassis.environ import InvalidConfig
from services.policy.config import Config
from tests.config_table import documented, expected

ENVIRON = {
    "POLICY_LISTEN": "127.0.0.1:9020",
    "POLICY_FILE": "tenants.yaml",
    "POLICY_TRUST_DOMAIN": "evenflow.local",
    "POLICY_TLS": "certs/policy",
    "POLICY_DATABASE": "sqlite:////var/lib/policy.db",
    "POLICY_KEY_SECRET_FILE": "secrets/api-keys",
    "POLICY_AUDIT": "audit",
    "POLICY_AUDIT_KEY_FILE": "audit-key.pem",
}


def test_the_readme_documents_every_variable() -> None:
    assert documented(Path("services/policy/README.md")) == expected(Config, "POLICY")


def test_the_required_variables_are_enough() -> None:
    config = Config.from_environ(ENVIRON)

    assert (config.listen.port, config.file, config.otlp) == (9020, Path("tenants.yaml"), None)


def test_routers_may_not_be_left_without_a_sign_of_life() -> None:
    with pytest.raises(InvalidConfig, match="at most 5"):
        Config.from_environ({**ENVIRON, "POLICY_HEARTBEAT_S": "6"})
