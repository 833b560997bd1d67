"""What is set aside is never overspent, and the cap is the most that it covers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.runtime.core.reservations import (
    Account,
    AttemptNotCovered,
    EstimateTooLow,
    Reservation,
    Usage,
)

rates = st.integers(0, 4)
accounts = st.builds(
    Account,
    st.sampled_from(["acme/a", "acme/b"]),
    st.just(0),
    st.integers(0, 60),
    rates,
    rates,
    rates,
    st.booleans(),
)
reservations = st.builds(Reservation, st.just("r.1"), st.just(1), st.lists(accounts, max_size=3))


def account(reserved: int, rates: tuple[int, int, int], *, hard: bool = True) -> Account:
    return Account("acme/a", 0, reserved, *rates, hard)


def test_each_kind_of_token_has_its_rate() -> None:
    assert account(0, (100, 10, 1)).cost(Usage(5, 2, 7)) == 3 * 100 + 2 * 10 + 7


@given(reservations, st.integers(0, 30), st.data())
def test_what_is_used_is_never_above_what_is_set_aside(
    reservation: Reservation, prompt: int, data: st.DataObject
) -> None:
    try:
        most = reservation.output_tokens(prompt)
    except EstimateTooLow:
        return
    output = data.draw(st.integers(0, 100 if most is None else most))
    cached = data.draw(st.integers(0, prompt + 5))  # whatever an engine says

    for each in reservation.accounts:
        if each.hard:
            assert each.cost(Usage(prompt, cached, output)) <= each.reserved


@given(reservations, st.integers(0, 30))
def test_one_token_more_would_be_too_many(reservation: Reservation, prompt: int) -> None:
    try:
        most = reservation.output_tokens(prompt)
    except EstimateTooLow:
        most = 0
    if most is None:
        return

    def covered(each: Account) -> bool:
        dearest = max(each.prompt_rate, each.cached_prompt_rate)
        return prompt * dearest + (most + 1) * each.output_rate <= each.reserved

    assert not all(covered(each) for each in reservation.accounts if each.hard)


def test_a_soft_budget_bounds_nothing() -> None:
    assert Reservation("r.1", 1, [account(1, (9, 9, 9), hard=False)]).output_tokens(50) is None


def test_output_that_costs_nothing_is_not_bounded() -> None:
    assert Reservation("r.1", 1, [account(50, (1, 1, 0))]).output_tokens(50) is None


def test_a_prompt_that_takes_all_leaves_no_room() -> None:
    with pytest.raises(EstimateTooLow, match="has 50 tokens"):
        Reservation("r.1", 1, [account(50, (1, 1, 1))]).output_tokens(50)


def test_no_more_attempts_than_are_covered() -> None:
    reservation = Reservation("r.1", 2, [])
    reservation.check(2)

    with pytest.raises(AttemptNotCovered):
        reservation.check(3)
