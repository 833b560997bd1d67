"""The last minute, against a list of all that was ever let go."""

import math
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.core.sliding import TICKS_PER_S, SlidingMinute

MINUTE_S, TICK_S = 60.0, 1 / TICKS_PER_S
LIMIT = 10
_amounts = st.integers(1, 4)
_gaps = st.sampled_from([0.0, 0.01, TICK_S, 1.0, 7.3, 30.0, 59.9, MINUTE_S, MINUTE_S + TICK_S])
_comings = st.lists(st.tuples(_gaps, _amounts), max_size=60)


@given(_comings)
def test_no_minute_has_more_than_the_limit_and_none_is_refused_a_tick_after_it_fits(
    comings: list[tuple[float, int]],
) -> None:
    minute, let_go, now_s = SlidingMinute(), list[tuple[float, int]](), 0.0
    for gap_s, amount in comings:
        now_s += gap_s
        if minute.fits(amount, LIMIT, now_s):
            minute.add(amount, LIMIT, now_s)
            let_go.append((now_s, amount))
            assert _within(let_go, now_s, MINUTE_S) <= LIMIT
        else:
            assert _within(let_go, now_s, MINUTE_S + TICK_S) + amount > LIMIT


@given(_comings, _amounts, st.integers(0, 3 * LIMIT))
def test_who_is_refused_hears_exactly_when_it_fits(
    comings: list[tuple[float, int]], amount: int, owed: int
) -> None:
    minute, now_s = SlidingMinute(), 0.0
    for gap_s, each in comings:
        now_s += gap_s
        if minute.fits(each, LIMIT, now_s):
            minute.add(each, LIMIT, now_s)
    minute.owe(owed, LIMIT, now_s)

    wait_s = minute.wait_s(amount, LIMIT, now_s)

    assert wait_s == 0.0 or not minute.fits(amount, LIMIT, now_s + wait_s - 0.002)
    assert minute.fits(amount, LIMIT, now_s + wait_s)


@given(st.lists(st.tuples(_gaps, _amounts, st.integers(0, 12)), max_size=80))
def test_whatever_was_used_the_limit_holds_in_the_long_run(
    uses: list[tuple[float, int, int]],
) -> None:
    """Each ends before the next comes, and has used less or far more than was charged."""
    minute, now_s, used = SlidingMinute(), 0.0, 0
    for gap_s, amount, truly in uses:
        now_s += gap_s
        if not minute.fits(amount, LIMIT, now_s):
            continue
        charge = minute.add(amount, LIMIT, now_s)
        if truly > amount:
            minute.owe(truly - amount, LIMIT, now_s)
        else:
            minute.give_back(amount - truly, LIMIT, now_s, of=charge)
        used += truly

    assert used - minute.debt <= LIMIT * math.ceil((now_s + TICK_S) / MINUTE_S + TICK_S)
    assert 0 <= minute.total <= LIMIT


@given(st.lists(st.tuples(_gaps, _amounts, st.integers(0, 4), _gaps), max_size=30))
def test_what_is_given_back_counts_as_if_never_charged_and_by_an_unknown_charge_no_later(
    uses: list[tuple[float, int, int, float]],
) -> None:
    """`exact` knows which charge is corrected, `strict` does not."""
    exact, strict, begun_s = SlidingMinute(), SlidingMinute(), 0.0
    truth: dict[int, tuple[float, int]] = {}
    events: list[tuple[float, int, int, int]] = []  # when, whose, charged, kept; -1: it begins
    for number, (gap_s, amount, kept, lasts_s) in enumerate(uses):
        begun_s += gap_s
        events.append((begun_s, number, amount, -1))
        events.append((begun_s + lasts_s, number, amount, min(kept, amount)))
    charges = {}
    for now_s, number, amount, kept in sorted(events, key=lambda each: (each[0], each[1])):
        if kept < 0:
            charges[number] = exact.add(amount, 0, now_s)
            strict.add(amount, 0, now_s)
            truth[number] = now_s, amount
        else:
            counts = _counted([truth[number]], now_s) > 0
            exact.give_back(amount - kept, 0, now_s, of=charges[number])
            strict.give_back((amount - kept) if counts else 0, 0, now_s)
            truth[number] = truth[number][0], kept
        assert strict.total >= exact.total == _counted(truth.values(), now_s)


def test_what_has_left_the_minute_is_not_given_back() -> None:
    minute = SlidingMinute()
    charge = minute.add(5, LIMIT, 0.0)
    minute.add(5, LIMIT, 59.0)

    minute.give_back(5, LIMIT, 61.0, of=charge)

    assert minute.total == 5


def test_what_was_not_expected_is_paid_before_anything_new_goes() -> None:
    minute = SlidingMinute()
    minute.add(LIMIT, LIMIT, 0.0)
    minute.owe(LIMIT, LIMIT, 1.0)

    assert not minute.fits(1, LIMIT, 62.0)
    assert minute.wait_s(1, LIMIT, 62.0) == pytest.approx(2 * (MINUTE_S + TICK_S) - 62.0, abs=2e-3)


def test_a_lower_limit_holds_at_once_and_a_higher_one_too() -> None:
    minute = SlidingMinute()
    minute.add(LIMIT, LIMIT, 0.0)

    assert not minute.fits(1, LIMIT // 2, 1.0)
    assert minute.fits(LIMIT, 2 * LIMIT, 1.0)
    assert minute.fits(LIMIT // 2, LIMIT // 2, MINUTE_S + TICK_S)


def test_memory_is_bounded_by_the_clock_and_not_by_the_limit() -> None:
    minute = SlidingMinute()
    for each in range(100_000):
        minute.add(1, 0, each * 0.001)

    assert len(minute.recent(range(1, 62), 100.0)) == 61
    assert minute.total == pytest.approx(60_000, abs=70)


def test_what_somebody_else_counted_leaves_at_its_age() -> None:
    minute = SlidingMinute()
    minute.add(1, LIMIT, 100.0)
    minute.insert(9, 50.0, 100.0)
    minute.insert(9, 70.0, 100.0)

    assert minute.total == 10
    assert minute.recent((10.0, 61.0), 100.0) == [1, 9]
    assert minute.fits(9, LIMIT, 110.0 + TICK_S)


def _within(let_go: list[tuple[float, int]], now_s: float, span_s: float) -> int:
    return sum(amount for at_s, amount in let_go if at_s >= now_s - span_s)


def _counted(truth: Iterable[tuple[float, int]], now_s: float) -> int:
    """As ticks count: from the end of its tick for a minute."""
    now = int(now_s * TICKS_PER_S)
    span = 60 * TICKS_PER_S
    return sum(amount for at_s, amount in truth if now - int(at_s * TICKS_PER_S) <= span)
