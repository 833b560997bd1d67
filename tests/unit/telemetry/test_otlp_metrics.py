"""What a collector is told about requests, by OpenTelemetry's names."""

from typing import Any

from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from services.telemetry.core.histograms import TIME_TO_FIRST_TOKEN_S
from services.telemetry.core.records import Observation
from services.telemetry.outbound.otlp_metrics import OtlpMetrics
from tests.unit.telemetry.observations import ORDINARY, REFUSED, aggregates


def points(*seen: Observation) -> dict[str, list[Any]]:
    reader, counted = InMemoryMetricReader(), aggregates()
    metrics = OtlpMetrics(reader, operation="generate_content", provider="evenflow")
    for each in seen:
        metrics.record(each, counted.take(each, now_s=0.0))
    collected = reader.get_metrics_data()
    metrics.stop()
    assert collected is not None
    return {
        metric.name: list(metric.data.data_points)
        for resource in collected.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def test_times_go_into_the_conventions_buckets_without_a_tenant() -> None:
    (point,) = points(ORDINARY)["gen_ai.server.time_to_first_token"]

    assert tuple(point.explicit_bounds) == TIME_TO_FIRST_TOKEN_S
    assert (point.count, point.sum) == (1, 0.1)
    assert dict(point.attributes) == {
        "gen_ai.operation.name": "generate_content",
        "gen_ai.provider.name": "evenflow",
        "gen_ai.request.model": "smollm2",
    }


def test_a_failure_has_a_duration_with_its_error_type_and_no_token_times() -> None:
    found = points(ORDINARY, REFUSED)

    failed = [
        point.attributes["error.type"]
        for point in found["gen_ai.server.request.duration"]
        if "error.type" in point.attributes
    ]
    assert failed == ["MODEL_NOT_ALLOWED"]
    assert [point.count for point in found["gen_ai.server.time_per_output_token"]] == [1]


def test_requests_and_tokens_are_counted_under_our_own_names() -> None:
    found = points(ORDINARY, ORDINARY, REFUSED)

    requests = {
        (point.attributes["evenflow.code"], point.attributes["evenflow.tenant"]): point.value
        for point in found["evenflow.requests"]
    }
    tokens = {
        point.attributes["gen_ai.token.type"]: point.value for point in found["evenflow.tokens"]
    }
    assert requests == {("OK", "acme"): 2, ("PERMISSION_DENIED", "acme"): 1}
    assert tokens == {"input": 40, "output": 22}
