"""Forwards metrics to the OTLP collector by OpenTelemetry's GenAI names, every ten seconds.

The SDK exports from a thread of its own, so a collector that is away costs the loop nothing.
"""

from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_NAME, Resource

from services.telemetry.core import histograms
from services.telemetry.core.aggregates import Named
from services.telemetry.core.records import Observation
from services.telemetry.outbound.collector import EXPORT_WITHIN_S, CollectorTarget

_EXPORT_EVERY_MS = 10_000


class OtlpMetrics:
    def __init__(self, reader: MetricReader, *, operation: str, provider: str) -> None:
        self._constant = {"gen_ai.operation.name": operation, "gen_ai.provider.name": provider}
        resource = Resource.create({SERVICE_NAME: "evenflow-telemetry"})
        self._provider = MeterProvider([reader], resource, shutdown_on_exit=False)
        meter = self._provider.get_meter("evenflow")
        self._first_token = meter.create_histogram(
            "gen_ai.server.time_to_first_token",
            "s",
            explicit_bucket_boundaries_advisory=histograms.TIME_TO_FIRST_TOKEN_S,
        )
        self._each_token = meter.create_histogram(
            "gen_ai.server.time_per_output_token",
            "s",
            explicit_bucket_boundaries_advisory=histograms.TIME_PER_OUTPUT_TOKEN_S,
        )
        self._duration = meter.create_histogram(
            "gen_ai.server.request.duration",
            "s",
            explicit_bucket_boundaries_advisory=histograms.REQUEST_DURATION_S,
        )
        self._requests = meter.create_counter("evenflow.requests", "{request}")
        self._tokens = meter.create_counter("evenflow.tokens", "{token}")

    def record(self, seen: Observation, named: Named) -> None:
        model = {**self._constant, "gen_ai.request.model": named.series.model}
        error = {"error.type": named.error_type} if named.error_type else {}
        self._duration.record(seen.duration_s, {**model, **error})
        per_token_s = seen.time_per_output_token_s
        if seen.succeeded and seen.time_to_first_token_s is not None:
            self._first_token.record(seen.time_to_first_token_s, model)
        if seen.succeeded and per_token_s is not None:
            self._each_token.record(per_token_s, model)
        self._count(seen, named)

    def stop(self) -> None:
        """Sends what is left. Blocks."""
        self._provider.shutdown(timeout_millis=EXPORT_WITHIN_S * 1000)

    def _count(self, seen: Observation, named: Named) -> None:
        ours = {f"evenflow.{name}": value for name, value in named.series._asdict().items()}
        outcome = {"evenflow.code": named.outcome.code, "evenflow.reason": named.outcome.reason}
        self._requests.add(1, {**ours, **outcome})
        if seen.usage is not None:
            self._tokens.add(seen.usage.prompt_tokens, {**ours, "gen_ai.token.type": "input"})
            self._tokens.add(seen.usage.output_tokens, {**ours, "gen_ai.token.type": "output"})


def periodic_reader(target: CollectorTarget) -> MetricReader:
    credentials = target.credentials()
    exporter = OTLPMetricExporter(
        endpoint=f"{'https' if credentials else 'http'}://{target.address}",
        insecure=credentials is None,
        credentials=credentials,
        timeout=EXPORT_WITHIN_S,
    )
    return PeriodicExportingMetricReader(exporter, export_interval_millis=_EXPORT_EVERY_MS)
