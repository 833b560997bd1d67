"""Live quantiles of the time to the first token."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.router.core.first_tokens import FEWEST, HALF_LIFE_S, FirstTokens, Histogram

TIMES = st.lists(st.floats(0.002, 100.0), min_size=100, max_size=300)
SHARES = st.sampled_from([0.5, 0.9, 0.95])
FEW = int(FEWEST)


def histogram(times: list[float], now_s: float = 0.0) -> Histogram:
    made = Histogram()
    for time in times:
        made.add(time, now_s)
    return made


@settings(deadline=None)  # a busy machine is no fault
@given(TIMES, SHARES)
def test_a_quantile_is_that_of_the_sorted_times(times: list[float], share: float) -> None:
    exact = sorted(times)[math.ceil(share * len(times)) - 1]

    found = histogram(times).quantile_s(share, 0.0)

    assert found is not None
    assert exact * 0.999 <= found <= exact * 1.051


@settings(deadline=None)  # a busy machine is no fault
@given(TIMES, st.floats(1.0, 10.0), SHARES)
def test_slower_times_never_give_a_shorter_one(
    times: list[float], factor: float, share: float
) -> None:
    before = histogram(times).quantile_s(share, 0.0)
    after = histogram([time * factor for time in times]).quantile_s(share, 0.0)

    assert before is not None
    assert after is not None
    assert after >= before


@settings(deadline=None)  # a busy machine is no fault
@given(TIMES, st.floats(1.0, 50.0))
def test_where_a_hedge_cuts_a_time_short_changes_nothing(times: list[float], cut: float) -> None:
    """What is above the delay may be counted at any value above it."""
    plain = histogram(times).quantile_s(0.95, 0.0)
    assert plain is not None
    delay_s = 1.5 * plain
    hedged = [delay_s + cut / 1000 if time > delay_s else time for time in times]

    assert histogram(hedged).quantile_s(0.95, 0.0) == plain


def test_few_times_say_nothing() -> None:
    assert histogram([0.1] * (FEW - 1)).quantile_s(0.95, 0.0) is None


def test_what_is_long_ago_is_forgotten() -> None:
    times = histogram([0.1] * 1000)

    assert times.quantile_s(0.5, 3 * HALF_LIFE_S) is not None
    assert times.quantile_s(0.5, 20 * HALF_LIFE_S) is None


def test_the_newest_outweigh_the_oldest() -> None:
    times = histogram([0.1] * 1000)
    for _ in range(1000):
        times.add(1.0, 5 * HALF_LIFE_S)

    found = times.quantile_s(0.1, 5 * HALF_LIFE_S)

    assert found == pytest.approx(1.0, rel=0.06)


def test_prompts_of_a_size_are_told_apart_once_there_are_enough() -> None:
    times = FirstTokens()
    for _ in range(FEW):
        times.learn("small", 100, 0.1, 0.0)
    for _ in range(FEW - 1):
        times.learn("small", 5000, 2.0, 0.0)

    def median(tokens: int, now_s: float) -> float | None:
        return times.quantile_s("small", tokens, share=0.5, now_s=now_s)

    assert median(100, 0.0) == pytest.approx(0.1, rel=0.06)
    assert median(5000, 0.0) == pytest.approx(0.1, rel=0.06)  # of the model as a whole
    times.learn("small", 5000, 2.0, 1.0)
    assert median(5000, 1.0) == pytest.approx(2.0, rel=0.06)


def test_models_are_told_apart() -> None:
    times = FirstTokens()
    for _ in range(FEW):
        times.learn("small", 10, 0.1, 0.0)

    assert times.quantile_s("large", 10, share=0.5, now_s=0.0) is None
