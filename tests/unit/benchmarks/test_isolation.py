"""The area under the ROC curve, by which `isolation` judges."""

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.isolation import auc, standard_error

times = st.lists(st.integers(0, 5).map(float), min_size=1, max_size=12)  # few values, many ties


@given(times, times)
def test_either_is_sooner_as_often_as_the_other_is_later(
    one: list[float], other: list[float]
) -> None:
    assert auc(one, other) + auc(other, one) == pytest.approx(1)


@given(times)
def test_what_is_always_sooner_is_told_apart_and_equals_are_not(values: list[float]) -> None:
    assert auc(values, [each + 10 for each in values]) == 1
    assert auc(values, values) == pytest.approx(0.5)


def test_the_standard_error_is_the_spread_of_samples_that_are_alike() -> None:
    rng = random.Random(1)  # noqa: S311 - it must repeat

    def sample() -> list[float]:
        return [rng.random() for _ in range(40)]

    seen = statistics.pstdev(auc(sample(), sample()) for _ in range(400))

    assert seen == pytest.approx(standard_error(40, 40), rel=0.15)
