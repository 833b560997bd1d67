"""What Prometheus reads is what was counted."""

import time

from prometheus_client.parser import text_string_to_metric_families

from services.telemetry.core.aggregates import Aggregates
from services.telemetry.core.labels import MAX_RUNGS
from services.telemetry.core.records import LostAttempt, Usage
from services.telemetry.inbound.caches import CacheServicer
from services.telemetry.inbound.exposition import MeshCollector, Said, rendering
from tests.unit.telemetry.observations import REFUSED, aggregates, observed

SERIES = {"model": "smollm2", "tenant": "acme", "workload_class": "interactive"}
GEN_AI = {
    "gen_ai_operation_name": "generate_content",
    "gen_ai_provider_name": "evenflow",
    "gen_ai_request_model": "smollm2",
}


def page_of(counted: Aggregates, *, now_s: float = 0.0, accept: str = "") -> str:
    collector = MeshCollector(
        counted,
        clock=lambda: now_s,
        own=lambda: [("evenflow_telemetry_records", "Taken.", 7)],
        said=Said(
            endpoints=lambda: {"ready": 2, "stalled": 0},
            queued=lambda: {"interactive": 0, "batch": 3},
            caches=CacheServicer(),
        ),
    )
    page, _ = rendering(collector)(accept)
    return page.decode()


def samples(counted: Aggregates) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page_of(counted))
        for sample in family.samples
    }


def value(counted: Aggregates, name: str, **labels: str) -> float:
    return samples(counted)[name, frozenset(labels.items())]


def test_quantiles_sums_and_counts_are_those_of_the_series() -> None:
    counted = aggregates()
    for number in range(1, 101):
        counted.take(observed(time_to_first_token_s=number / 100, duration_s=2.0), now_s=0.0)
    name = "evenflow_time_to_first_token_seconds"

    assert abs(value(counted, name, quantile="0.99", **SERIES) - 0.99) < 0.011
    assert abs(value(counted, name, quantile="0.5", **SERIES) - 0.5) < 0.011
    assert value(counted, f"{name}_count", **SERIES) == 100
    assert abs(value(counted, f"{name}_sum", **SERIES) - 50.5) < 1e-9


def test_outcomes_tokens_and_attempts_are_counted() -> None:
    counted = aggregates()
    for seen in (observed(attempts=3), observed(), REFUSED):
        counted.take(seen, now_s=0.0)

    name = "evenflow_requests_total"
    assert value(counted, name, code="OK", reason="", **SERIES) == 2
    outcome = {"code": "PERMISSION_DENIED", "reason": "MODEL_NOT_ALLOWED"}
    assert value(counted, name, **outcome, **SERIES) == 1
    tokens = [
        value(counted, "evenflow_tokens_total", kind=kind, **SERIES)
        for kind in ("prompt", "cached_prompt", "expected_cached_prompt", "output")
    ]
    assert tokens == [40, 32, 24, 22]
    assert value(counted, "evenflow_attempts_total", **SERIES) == 4
    assert value(counted, "evenflow_telemetry_records_total") == 7


def test_tokens_of_lost_attempts_are_counted_apart() -> None:
    counted = aggregates(max_tenants=1)
    usage = Usage(prompt_tokens=20, cached_prompt_tokens=16, output_tokens=11)
    for tenant in ("acme", "acme", "globex"):
        counted.take_lost(LostAttempt(tenant=tenant, usage=usage))

    name = "evenflow_lost_attempt_tokens_total"
    assert value(counted, name, tenant="acme", kind="prompt") == 40
    assert value(counted, name, tenant="acme", kind="cached_prompt") == 32
    assert value(counted, name, tenant="acme", kind="output") == 22
    assert value(counted, name, tenant="other", kind="output") == 11
    assert not counted.series


def test_hedges_are_counted_by_who_won() -> None:
    counted = aggregates()
    for seen in (observed(hedged=True), observed(hedged=True, hedge_won=True), observed()):
        counted.take(seen, now_s=0.0)

    name = "evenflow_hedges_total"
    assert value(counted, name, outcome="won", **SERIES) == 1
    assert value(counted, name, outcome="lost", **SERIES) == 1


def test_opentelemetrys_histograms_know_successes_apart_from_failures() -> None:
    counted = aggregates()
    for seen in (observed(), observed(code="UNAVAILABLE", reason="ENGINE_FAILED")):
        counted.take(seen, now_s=0.0)

    first, duration = (
        f"gen_ai_server_{name}_seconds_bucket"
        for name in ("time_to_first_token", "request_duration")
    )
    assert value(counted, "gen_ai_server_time_per_output_token_seconds_count", **GEN_AI) == 1
    assert value(counted, first, le="0.1", **GEN_AI) == 1
    assert value(counted, first, le="0.08", **GEN_AI) == 0
    assert value(counted, duration, le="1.28", error_type="", **GEN_AI) == 1
    assert value(counted, duration, le="+Inf", error_type="ENGINE_FAILED", **GEN_AI) == 1


def test_no_tenant_shows_under_opentelemetrys_names() -> None:
    counted = aggregates()
    counted.take(observed(), now_s=0.0)

    lines = [line for line in page_of(counted).splitlines() if line.startswith("gen_ai_")]

    assert lines
    assert not [line for line in lines if "acme" in line]


def test_openmetrics_is_served_to_who_asks_for_it() -> None:
    counted = aggregates()
    counted.take(observed(), now_s=0.0)

    page = page_of(counted, accept="application/openmetrics-text; version=1.0.0")

    assert page.endswith("# EOF\n")


def test_quiet_minutes_show_as_not_a_number() -> None:
    counted = aggregates()
    counted.take(observed(), now_s=0.0)

    assert 'quantile="0.99",tenant="acme"' in page_of(counted, now_s=1e4)
    assert "NaN" in page_of(counted, now_s=1e4)


def test_a_record_costs_less_than_a_fifth_of_a_millisecond() -> None:
    counted = aggregates()
    took_s = []
    for _ in range(5):  # the machine may be busy with something else
        began_s = time.thread_time()
        for number in range(1000):
            counted.take(observed(time_to_first_token_s=0.001 * (number + 1)), now_s=0.0)
        took_s.append((time.thread_time() - began_s) / 1000)

    assert min(took_s) < 0.0002


def test_endpoints_are_counted_by_state() -> None:
    assert value(aggregates(), "evenflow_endpoints", state="ready") == 2
    assert value(aggregates(), "evenflow_endpoints", state="stalled") == 0


def test_those_who_wait_are_counted_by_band() -> None:
    counted = aggregates()

    assert value(counted, "evenflow_queued_requests", band="interactive") == 0
    assert value(counted, "evenflow_queued_requests", band="batch") == 3


def test_degraded_requests_are_counted_by_rung_reason_and_class() -> None:
    counted = aggregates()
    rungs = (("smaller_output", "saturated"), ("fallback_model", "model_unhealthy"))
    for degradations in (rungs, rungs[:1], ()):
        counted.take(observed(degradations=degradations), now_s=0.0)

    name, of = "evenflow_degraded_requests_total", {"workload_class": "interactive"}
    assert value(counted, name, rung="smaller_output", reason="saturated", **of) == 2
    assert value(counted, name, rung="fallback_model", reason="model_unhealthy", **of) == 1


def test_rungs_are_bounded_whatever_a_router_says() -> None:
    counted = aggregates()
    for at in range(100):
        counted.take(observed(degradations=((f"rung-{at}", "x"),)), now_s=0.0)
    counted.take(observed(degradations=(("y" * 1000, "x"),)), now_s=0.0)

    found = [each for each, _ in samples(counted) if each == "evenflow_degraded_requests_total"]
    assert len(found) == MAX_RUNGS + 1
    of = {"rung": "other", "reason": "other", "workload_class": "interactive"}
    assert value(counted, "evenflow_degraded_requests_total", **of) == 101 - MAX_RUNGS


def test_response_caches_are_counted_by_outcome_and_nothing_is_claimed_for_them() -> None:
    name = "evenflow_response_cache_total"
    assert [value(aggregates(), name, outcome=each) for each in ("hit", "miss", "bypass")] == [
        0
    ] * 3
    assert "evenflow_response_cache_bytes{" not in page_of(aggregates()), "no router says"
    assert ("evenflow_response_cache_entries", frozenset()) not in samples(aggregates())
