"""Bounds the label values of metrics: whoever comes after the limit is "other".

Tenants, models and reasons come from outside; without a bound one caller could make the metrics
larger than memory. The first to come keep their names for as long as the process lives, since a
counter that changes its name is a counter that lies.
"""

from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar

from services.telemetry.core.records import Observation

OTHER = "other"
NOBODY = "nobody"  # the tenant of callers whom policy does not know
MAX_RUNGS = 32  # pairs of a rung and its reason; docs/degradation.md has some ten
MAX_REASONS = 64  # docs/reasons.md has some 20
_MAX_CHARS = 128

K = TypeVar("K", bound=Hashable)


class Series(NamedTuple):
    """What one set of sketches and counters stands for."""

    model: str
    tenant: str
    workload_class: str


class Labels:
    """Gives every observation its bounded names."""

    def __init__(self, *, max_tenants: int, max_models: int, max_series: int) -> None:
        self._tenants = _FirstCome[str](max_tenants)
        self._models = _FirstCome[str](max_models)
        self._reasons = _FirstCome[str](MAX_REASONS)
        self._rungs = _FirstCome[tuple[str, str]](MAX_RUNGS)
        self._series = _FirstCome[Series](max_series)

    def series(self, observation: Observation) -> Series:
        """At most `max_series`, and those whose tenant is "other".

        A model that no engine answered for is a word that a caller made up; only an answer makes
        it a label, or one caller's typing would use up everybody's.
        """
        model = _bounded(self._models, observation.model, new=bool(observation.engine))
        tenant = self.tenant(observation.tenant)
        series = Series(model, tenant, observation.workload_class.value)
        return series if self._series.admits(series) else series._replace(tenant=OTHER)

    def tenant(self, name: str) -> str:
        """At most `max_tenants`, and two."""
        return _bounded(self._tenants, name) if name else NOBODY

    def reason(self, observation: Observation) -> str:
        """Empty when there was none."""
        return _bounded(self._reasons, observation.reason) if observation.reason else ""

    def rung(self, rung: str, reason: str) -> tuple[str, str]:
        fits = max(len(rung), len(reason)) <= _MAX_CHARS
        return (rung, reason) if fits and self._rungs.admits((rung, reason)) else (OTHER, OTHER)


class _FirstCome(Generic[K]):
    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._admitted: set[K] = set()

    def admits(self, value: K, *, new: bool = True) -> bool:
        """`new` False: only what was admitted before."""
        if value in self._admitted:
            return True
        if not new or len(self._admitted) >= self._limit:
            return False
        self._admitted.add(value)
        return True


def _bounded(known: _FirstCome[str], value: str, *, new: bool = True) -> str:
    return value if len(value) <= _MAX_CHARS and known.admits(value, new=new) else OTHER
