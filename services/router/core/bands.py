"""Priority bands: who waits for a person's answer goes before batches, which keep a share.

A guaranteed minimum and not aging: under lasting overload every queued batch request would in time
be older than any interactive one, and aging would turn the bands upside down. A share bounds both:
batches never stand still, and interactive requests never lose more than that share to them.
"""

from enum import Enum

from services.router.core.demands import WorkloadClass


class Band(Enum):
    """The first goes first."""

    INTERACTIVE = "interactive"  # high-risk requests too
    BATCH = "batch"


def band_of(workload_class: WorkloadClass) -> Band:
    return Band.BATCH if workload_class is WorkloadClass.BATCH else Band.INTERACTIVE


class BandTurns:
    """Whose turn it is while both bands wait. `batch_share`: of the service given meanwhile."""

    def __init__(self, *, batch_share: float) -> None:
        if not 0.0 < batch_share < 1.0:
            raise ValueError(f"batch_share must be between 0 and 1, got {batch_share}")
        self._owed_for_each = batch_share / (1.0 - batch_share)
        self._owed = 0.0  # service that batches have not had yet of their share

    def first(self, *, owed_for: float = 0.0) -> Band:
        """`owed_for`: batches have their turn only once they are owed more."""
        return Band.BATCH if self._owed > owed_for else Band.INTERACTIVE

    def served(self, band: Band, service: float, *, both_wait: bool) -> None:
        """`both_wait`: requests of both bands waited when this one was let go."""
        if not both_wait:
            self._owed = min(self._owed, 0.0)  # who did not wait has missed nothing
        elif band is Band.INTERACTIVE:
            self._owed += service * self._owed_for_each
        else:
            self._owed -= service
