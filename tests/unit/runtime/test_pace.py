"""A state is told at once where it matters, soon where room runs out, and regularly else."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from services.runtime.core.pace import Counts, Pace

IDLE = Counts(running=0, waiting=0, max_running=8, kv_blocks_free=100, kv_blocks_total=100)
SOON, REGULAR = 5, 10


def looks_until_told(before: Counts, after: Counts) -> int:
    """How many looks pass until a change that happens right after a word is told."""
    pace = Pace(soon=SOON, regular=REGULAR)
    assert pace.is_due("ready", before)
    return next(look for look in range(1, 100) if pace.is_due("ready", after))


def test_the_first_look_is_told() -> None:
    assert Pace(soon=SOON, regular=REGULAR).is_due("ready", IDLE)


def test_another_standing_is_told_at_once() -> None:
    pace = Pace(soon=SOON, regular=REGULAR)
    pace.is_due("loading", IDLE)

    assert pace.is_due("ready", IDLE)


def test_becoming_busy_and_idle_is_told_at_once() -> None:
    assert looks_until_told(IDLE, replace(IDLE, running=1)) == 1
    assert looks_until_told(IDLE, replace(IDLE, waiting=1)) == 1
    assert looks_until_told(replace(IDLE, running=8), IDLE) == 1


def test_counts_far_from_saturation_wait_for_the_regular_word() -> None:
    assert looks_until_told(replace(IDLE, running=1), replace(IDLE, running=5)) == REGULAR


def test_counts_near_saturation_are_told_soon() -> None:
    five = replace(IDLE, running=5)

    assert looks_until_told(five, replace(IDLE, running=6)) == SOON
    assert looks_until_told(five, replace(IDLE, running=5, waiting=1)) == SOON
    assert looks_until_told(replace(IDLE, running=6), five) == SOON
    assert looks_until_told(five, replace(five, kv_blocks_free=24)) == SOON
    assert looks_until_told(five, replace(five, kv_blocks_free=25)) == REGULAR


def test_what_stays_as_it_is_is_told_regularly() -> None:
    full = replace(IDLE, running=8, waiting=3)

    assert looks_until_told(full, full) == REGULAR


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 100)), min_size=1, max_size=60))
def test_nothing_untold_is_older_than_the_regular_word(seen: list[tuple[int, int]]) -> None:
    pace = Pace(soon=SOON, regular=REGULAR)
    untold = 0
    for running, free in seen:
        told = pace.is_due("ready", replace(IDLE, running=running, kv_blocks_free=free))
        untold = 0 if told else untold + 1
        assert untold < REGULAR
