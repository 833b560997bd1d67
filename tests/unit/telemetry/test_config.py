"""The README's table is the config, and a wrong environment is refused whole."""

from pathlib import Path

import pytest

from services.chassis.environ import InvalidConfig
from services.telemetry.config import Config
from services.telemetry.outbound.collector import CollectorTls
from tests.config_table import documented, expected

ENVIRON = {
    "TELEMETRY_LISTEN": "127.0.0.1:9030",
    "TELEMETRY_PROMETHEUS_LISTEN": "127.0.0.1:9031",
    "TELEMETRY_TLS": "certs/telemetry",
}


def test_the_readme_documents_every_variable() -> None:
    assert documented(Path("services/telemetry/README.md")) == expected(Config, "TELEMETRY")


def test_the_required_variables_are_enough_and_forward_nothing() -> None:
    config = Config.from_environ(ENVIRON)

    assert (config.window_s, config.otlp_forward) == (300.0, None)
    assert config.otlp_forward_tls is CollectorTls.SYSTEM


def test_every_problem_is_reported_at_once() -> None:
    with pytest.raises(InvalidConfig) as caught:
        Config.from_environ(
            {**ENVIRON, "TELEMETRY_WINDOW_S": "0", "TELEMETRY_OTLP_FORWARD_TLS": "maybe"}
        )

    problems = str(caught.value).splitlines()
    assert problems == [
        "TELEMETRY_WINDOW_S: must be above 0, got 0",
        "TELEMETRY_OTLP_FORWARD_TLS: must be one of off, system, mesh, got maybe",
    ]


def test_prometheus_needs_a_port() -> None:
    with pytest.raises(InvalidConfig, match="must be host:port"):
        Config.from_environ({**ENVIRON, "TELEMETRY_PROMETHEUS_LISTEN": "unix:/run/metrics"})
