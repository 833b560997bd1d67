"""What Prometheus reads: the aggregates as metric families.

`gen_ai_*` are OpenTelemetry's names and carry no tenant; everything of ours is `evenflow_*`.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from services.telemetry.core.aggregates import Aggregates, SeriesTotals
from services.telemetry.core.histograms import Histogram
from services.telemetry.core.windows import QUANTILES, Window

OPERATION = "generate_content"  # what OpenTelemetry calls our Generate
PROVIDER = "evenflow"

_SERIES = ("model", "tenant", "workload_class")
_GEN_AI = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")
_SUMMARIES: tuple[tuple[str, str, Callable[[SeriesTotals], Window]], ...] = (
    (
        "evenflow_time_to_first_token_seconds",
        "From the router being asked to the first token at Envoy.",
        lambda totals: totals.time_to_first_token,
    ),
    (
        "evenflow_time_per_output_token_seconds",
        "Mean time of each output token after the first.",
        lambda totals: totals.time_per_output_token,
    ),
    (
        "evenflow_request_duration_seconds",
        "From the router being asked to the end, however it ended.",
        lambda totals: totals.request_duration,
    ),
    (
        "evenflow_queue_wait_seconds",
        "From the router being asked to the request being let go.",
        lambda totals: totals.queue_wait,
    ),
)


def rendering(collector: Collector) -> Callable[[str], tuple[bytes, str]]:
    """From an Accept header to the page in the format it asks for, and its content type."""
    registry = CollectorRegistry()
    registry.register(collector)

    def render(accept: str) -> tuple[bytes, str]:
        encode, content_type = choose_encoder(accept)
        return encode(registry), content_type

    return render


class Caches(Protocol):
    """What is known of the routers' response caches."""

    @property
    def outcomes(self) -> Mapping[str, int]: ...

    def held(self) -> tuple[int, int] | None: ...  # entries and bytes


@dataclass(frozen=True, slots=True)
class Said:
    """By routers of themselves: how many endpoints are in each state, how many requests wait in
    each band, what their response caches did and hold. Empty while no router says."""

    endpoints: Callable[[], Mapping[str, int]]
    queued: Callable[[], Mapping[str, int]]
    caches: Caches


class MeshCollector(Collector):
    """`own` counts what the service itself did: name, what it means, value."""

    def __init__(
        self,
        aggregates: Aggregates,
        *,
        clock: Callable[[], float],
        own: Callable[[], Iterable[tuple[str, str, float]]],
        said: Said,
    ) -> None:
        self._aggregates = aggregates
        self._clock = clock
        self._own = own
        self._said = said

    def collect(self) -> Iterator[Metric]:
        now_s = self._clock()
        for name, meaning, window_of in _SUMMARIES:
            yield self._summary(name, meaning, window_of, now_s)
        yield from self._counters()
        yield self._lost_tokens()
        yield from self._histograms()
        yield self._endpoint_states()
        yield self._queues()
        yield from self._response_caches()
        yield GaugeMetricFamily(
            "evenflow_telemetry_series",
            "Sets of model, tenant and workload class that are counted apart.",
            value=len(self._aggregates.series),
        )
        for name, meaning, value in self._own():
            yield CounterMetricFamily(name, meaning, value=value)

    def _summary(
        self, name: str, meaning: str, window_of: Callable[[SeriesTotals], Window], now_s: float
    ) -> Metric:
        family = Metric(name, meaning, "summary")
        for series, totals in self._aggregates.series.items():
            window = window_of(totals)
            if not window.count:
                continue
            labels = series._asdict()
            for quantile, value in zip(QUANTILES, window.quantiles(now_s), strict=True):
                family.add_sample(name, {**labels, "quantile": str(quantile)}, value)
            family.add_sample(f"{name}_sum", labels, window.sum)
            family.add_sample(f"{name}_count", labels, window.count)
        return family

    def _counters(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "evenflow_requests",
            "Requests that ended, by gRPC code and reason.",
            labels=(*_SERIES, "code", "reason"),
        )
        tokens = CounterMetricFamily(
            "evenflow_tokens",
            "Tokens as engines counted them; cached_prompt is a part of prompt, and "
            "expected_cached_prompt what routers expected it to be.",
            labels=(*_SERIES, "kind"),
        )
        attempts = CounterMetricFamily(
            "evenflow_attempts",
            "Arms sent to runtimes, retries and hedges included.",
            labels=_SERIES,
        )
        hedges = CounterMetricFamily(
            "evenflow_hedges",
            "Second arms sent for late first tokens: won, when they answered, or lost.",
            labels=(*_SERIES, "outcome"),
        )
        for series, totals in self._aggregates.series.items():
            for outcome, count in totals.requests.items():
                requests.add_metric((*series, *outcome), count)
            for kind, count in totals.tokens.items():
                tokens.add_metric((*series, kind), count)
            attempts.add_metric(series, totals.attempts)
            for won_or_lost, count in totals.hedges.items():
                hedges.add_metric((*series, won_or_lost), count)
        return iter((requests, tokens, attempts, hedges, self._degraded()))

    def _lost_tokens(self) -> Metric:
        family = CounterMetricFamily(
            "evenflow_lost_attempt_tokens",
            "Tokens of attempts that no request counts: losers of hedges, and those cut off.",
            labels=("tenant", "kind"),
        )
        for tenant, tokens in self._aggregates.lost_tokens.items():
            for kind, count in tokens.items():
                family.add_metric((tenant, kind), count)
        return family

    def _degraded(self) -> Metric:
        family = CounterMetricFamily(
            "evenflow_degraded_requests",
            "Requests that took a rung of the degradation ladder, and why.",
            labels=("rung", "reason", "workload_class"),
        )
        for degraded, count in self._aggregates.degraded.items():
            family.add_metric(degraded, count)
        return family

    def _endpoint_states(self) -> Metric:
        family = GaugeMetricFamily(
            "evenflow_endpoints",
            "Endpoints in each state, as routers see them; none while no router says.",
            labels=("state",),
        )
        for state, number in self._said.endpoints().items():
            family.add_metric((state,), number)
        return family

    def _queues(self) -> Metric:
        family = GaugeMetricFamily(
            "evenflow_queued_requests",
            "Requests that wait in routers, by priority band; none while no router says.",
            labels=("band",),
        )
        for band, number in self._said.queued().items():
            family.add_metric((band,), number)
        return family

    def _response_caches(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "evenflow_response_cache",
            "Requests that were to use the response cache, by what it did.",
            labels=("outcome",),
        )
        for outcome, count in self._said.caches.outcomes.items():
            requests.add_metric((outcome,), count)
        yield requests
        held = self._said.caches.held()
        entries, size_bytes = held or (None, None)
        yield GaugeMetricFamily(
            "evenflow_response_cache_entries",
            "Answers that routers' response caches hold; none while no router says.",
            value=entries,
        )
        yield GaugeMetricFamily(
            "evenflow_response_cache_bytes", "What they take, in bytes.", value=size_bytes
        )

    def _histograms(self) -> Iterator[Metric]:
        first = HistogramMetricFamily(
            "gen_ai_server_time_to_first_token_seconds",
            "Time to generate the first token, of successful responses.",
            labels=_GEN_AI,
        )
        each = HistogramMetricFamily(
            "gen_ai_server_time_per_output_token_seconds",
            "Time per output token after the first, of successful responses.",
            labels=_GEN_AI,
        )
        duration = HistogramMetricFamily(
            "gen_ai_server_request_duration_seconds",
            "Time to the last output token or the failure.",
            labels=(*_GEN_AI, "error_type"),
        )
        for model, totals in self._aggregates.models.items():
            labels = (OPERATION, PROVIDER, model)
            _add(first, labels, totals.time_to_first_token)
            _add(each, labels, totals.time_per_output_token)
            for error_type, histogram in totals.request_duration.items():
                _add(duration, (*labels, error_type), histogram)
        return iter((first, each, duration))


def _add(family: HistogramMetricFamily, labels: tuple[str, ...], histogram: Histogram) -> None:
    buckets = [
        ("+Inf" if bound == math.inf else str(bound), count)
        for bound, count in histogram.cumulative()
    ]
    family.add_metric(labels, buckets, sum_value=histogram.sum)
