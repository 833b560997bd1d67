"""What telemetry knows: quantiles and counters of each series, histograms of each model."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from services.telemetry.core.histograms import (
    REQUEST_DURATION_S,
    TIME_PER_OUTPUT_TOKEN_S,
    TIME_TO_FIRST_TOKEN_S,
    Histogram,
)
from services.telemetry.core.labels import Labels, Series
from services.telemetry.core.records import LostAttempt, Observation, Usage
from services.telemetry.core.windows import Window


class Outcome(NamedTuple):
    code: str
    reason: str  # empty: none


class Degraded(NamedTuple):
    """One rung of the degradation ladder, as requests took it."""

    rung: str
    reason: str
    workload_class: str


@dataclass(slots=True, kw_only=True)
class SeriesTotals:
    """Of one model, tenant and workload class. Counters run since the start."""

    time_to_first_token: Window
    time_per_output_token: Window
    request_duration: Window
    queue_wait: Window
    requests: Counter[Outcome] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)  # by kind
    attempts: int = 0
    hedges: Counter[str] = field(default_factory=Counter)  # won or lost


@dataclass(frozen=True, slots=True)
class ModelTotals:
    """Of one model over all tenants, by OpenTelemetry's names."""

    time_to_first_token: Histogram
    time_per_output_token: Histogram
    request_duration: dict[str, Histogram]  # by error type; empty: it succeeded


class Aggregates:
    """Plain memory, owned by one event loop."""

    def __init__(self, labels: Labels, *, slot_s: float, slots: int) -> None:
        self._labels = labels
        self._slot_s = slot_s
        self._slots = slots
        self._series: dict[Series, SeriesTotals] = {}
        self._models: dict[str, ModelTotals] = {}
        self._lost: dict[str, Counter[str]] = {}
        self._degraded: Counter[Degraded] = Counter()

    @property
    def series(self) -> Mapping[Series, SeriesTotals]:
        return self._series

    @property
    def models(self) -> Mapping[str, ModelTotals]:
        return self._models

    @property
    def lost_tokens(self) -> Mapping[str, Counter[str]]:
        """Of attempts that no series counts, by tenant and kind."""
        return self._lost

    def take_lost(self, attempt: LostAttempt) -> None:
        tokens = self._lost.setdefault(self._labels.tenant(attempt.tenant), Counter())
        _count_tokens(tokens, attempt.usage)

    @property
    def degraded(self) -> Mapping[Degraded, int]:
        return self._degraded

    def take(self, seen: Observation, now_s: float) -> "Named":
        """Counts one request, and returns the names that it was counted under."""
        series = self._labels.series(seen)
        named = Named(series, Outcome(seen.code, self._labels.reason(seen)))
        totals = self._series.get(series) or self._add_series(series)
        for window, value in _times(totals, seen):
            if value is not None:
                window.add(value, now_s)
        totals.requests[named.outcome] += 1
        totals.attempts += seen.attempts
        if seen.hedged:
            totals.hedges["won" if seen.hedge_won else "lost"] += 1
        if seen.usage is not None:
            _count_tokens(totals.tokens, seen.usage)
            totals.tokens["expected_cached_prompt"] += seen.expected_cached_tokens
        self._take_model(series.model, seen, named.error_type)
        for each in seen.degradations:
            rung, reason = self._labels.rung(*each)
            self._degraded[Degraded(rung, reason, series.workload_class)] += 1
        return named

    def _take_model(self, model: str, seen: Observation, error_type: str) -> None:
        totals = self._models.get(model) or self._add_model(model)
        duration = totals.request_duration.get(error_type)
        if duration is None:
            duration = totals.request_duration[error_type] = Histogram(REQUEST_DURATION_S)
        duration.add(seen.duration_s)
        if seen.succeeded and seen.time_to_first_token_s is not None:
            totals.time_to_first_token.add(seen.time_to_first_token_s)
        per_token_s = seen.time_per_output_token_s
        if seen.succeeded and per_token_s is not None:
            totals.time_per_output_token.add(per_token_s)

    def _add_series(self, series: Series) -> SeriesTotals:
        totals = self._series[series] = SeriesTotals(
            time_to_first_token=self._window(),
            time_per_output_token=self._window(),
            request_duration=self._window(),
            queue_wait=self._window(),
        )
        return totals

    def _window(self) -> Window:
        return Window(slot_s=self._slot_s, slots=self._slots)

    def _add_model(self, model: str) -> ModelTotals:
        totals = self._models[model] = ModelTotals(
            Histogram(TIME_TO_FIRST_TOKEN_S), Histogram(TIME_PER_OUTPUT_TOKEN_S), {}
        )
        return totals


class Named(NamedTuple):
    """The bounded names of one request."""

    series: Series
    outcome: Outcome

    @property
    def error_type(self) -> str:
        """OpenTelemetry's error.type: the reason, or the code where none was given."""
        return "" if self.outcome.code == "OK" else self.outcome.reason or self.outcome.code


def _times(totals: SeriesTotals, seen: Observation) -> Iterator[tuple[Window, float | None]]:
    yield totals.time_to_first_token, seen.time_to_first_token_s
    yield totals.time_per_output_token, seen.time_per_output_token_s
    yield totals.request_duration, seen.duration_s
    yield totals.queue_wait, seen.queue_wait_s


def _count_tokens(tokens: Counter[str], usage: Usage) -> None:
    tokens["prompt"] += usage.prompt_tokens
    tokens["cached_prompt"] += usage.cached_prompt_tokens
    tokens["output"] += usage.output_tokens
