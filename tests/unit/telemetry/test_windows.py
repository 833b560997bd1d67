"""Quantiles are within their accuracy of an exact oracle, and of the last minutes only."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.telemetry.core.windows import ACCURACY, QUANTILES, Window

SLOT_S, SLOTS = 60.0, 5

# Few different values, so that ties are common, and times over six orders of magnitude
values = st.lists(
    st.sampled_from([0.001, 0.1, 0.1001, 5.0]) | st.floats(1e-4, 100.0), min_size=1, max_size=80
)


def exact(sorted_values: Sequence[float], quantile: float) -> float:
    """The value at that rank, as DDSketch's authors define it."""
    return sorted_values[int(quantile * (len(sorted_values) - 1))]


def is_close(value: float, wanted: float) -> bool:
    return abs(value - wanted) <= ACCURACY * wanted * (1 + 1e-9)


@given(values, st.lists(st.floats(0.0, 30.0), min_size=80, max_size=80))
def test_quantiles_are_within_one_percent_of_the_values_in_the_window(
    seen: list[float], gaps_s: list[float]
) -> None:
    window, now_s, history = Window(slot_s=SLOT_S, slots=SLOTS), 0.0, []
    for value, gap_s in zip(seen, gaps_s, strict=False):
        now_s += gap_s
        window.add(value, now_s)
        history.append((now_s, value))

    first_slot = int(now_s // SLOT_S) - SLOTS + 1
    kept = sorted(value for at_s, value in history if int(at_s // SLOT_S) >= first_slot)
    for quantile, value in zip(QUANTILES, window.quantiles(now_s), strict=True):
        assert is_close(value, exact(kept, quantile))


@given(values, values)
def test_slots_merge_into_what_one_sketch_would_say(one: list[float], two: list[float]) -> None:
    apart, together = Window(slot_s=SLOT_S, slots=SLOTS), Window(slot_s=SLOT_S, slots=SLOTS)
    for at_s, part in ((0.0, one), (SLOT_S, two)):
        for value in part:
            apart.add(value, at_s)
            together.add(value, SLOT_S)

    assert apart.quantiles(SLOT_S) == pytest.approx(together.quantiles(SLOT_S))


def test_yesterday_does_not_bury_today() -> None:
    window = Window(slot_s=SLOT_S, slots=SLOTS)
    for _ in range(10_000):
        window.add(0.01, 0.0)
    window.add(5.0, SLOT_S * SLOTS)

    assert window.quantiles(SLOT_S * SLOTS)[0] == pytest.approx(5.0, rel=ACCURACY)


def test_an_empty_window_has_no_quantiles_but_keeps_its_totals() -> None:
    window = Window(slot_s=SLOT_S, slots=SLOTS)
    window.add(2.0, 0.0)

    assert all(math.isnan(value) for value in window.quantiles(SLOT_S * SLOTS))
    assert (window.count, window.sum) == (1, 2.0)


def test_a_report_is_fresh_after_every_value() -> None:
    window = Window(slot_s=SLOT_S, slots=SLOTS)
    window.add(1.0, 0.0)
    window.quantiles(0.0)
    window.add(9.0, 0.0)

    assert window.quantiles(0.0)[2] == pytest.approx(1.0, rel=ACCURACY)
    for _ in range(200):
        window.add(9.0, 0.0)
    assert window.quantiles(0.0)[0] == pytest.approx(9.0, rel=ACCURACY)
