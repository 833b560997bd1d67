from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from services.router.core.bands import Band, BandTurns, band_of
from services.router.core.demands import WorkloadClass

LARGEST = 50


def test_high_risk_waits_with_interactive_and_before_batch() -> None:
    bands = [band_of(each) for each in WorkloadClass]

    assert bands.count(Band.BATCH) == 1
    assert band_of(WorkloadClass.HIGH_RISK) is Band.INTERACTIVE


@settings(deadline=None)
@given(
    st.lists(st.integers(1, LARGEST), min_size=1, max_size=200), st.sampled_from([0.01, 0.1, 0.5])
)
def test_while_both_wait_each_gets_its_share(services: list[int], batch_share: float) -> None:
    turns, had = BandTurns(batch_share=batch_share), Counter[Band]()

    for service in services:
        band = turns.first()
        had[band] += service
        turns.served(band, service, both_wait=True)
        assert abs(had[Band.BATCH] - batch_share * had.total()) <= LARGEST


@settings(deadline=None)
@given(st.integers(0, 100))
def test_batches_that_did_not_wait_are_owed_nothing(alone: int) -> None:
    turns = BandTurns(batch_share=0.1)

    for _ in range(alone):
        turns.served(Band.INTERACTIVE, 100.0, both_wait=False)

    assert turns.first() is Band.INTERACTIVE


def test_what_batches_are_owed_lapses_once_they_wait_no_more() -> None:
    turns = BandTurns(batch_share=0.5)
    turns.served(Band.INTERACTIVE, 100.0, both_wait=True)
    assert turns.first() is Band.BATCH

    turns.served(Band.INTERACTIVE, 1.0, both_wait=False)

    assert turns.first() is Band.INTERACTIVE


def test_what_batches_had_too_much_does_not() -> None:
    turns = BandTurns(batch_share=0.5)
    turns.served(Band.BATCH, 100.0, both_wait=True)

    turns.served(Band.INTERACTIVE, 1.0, both_wait=False)
    turns.served(Band.INTERACTIVE, 99.0, both_wait=True)

    assert turns.first() is Band.INTERACTIVE
