"""What a request counts against: windows as the calendar has them, charges in whole units."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.core.budgets import (
    Budget,
    NotPriced,
    Price,
    Prices,
    Size,
    Unit,
    Window,
    at_most,
    charged,
    window_end,
    window_start,
)

NOVEMBER = datetime(2026, 11, 26, 15, 49, 5, tzinfo=UTC).timestamp()
PRICE = Price(150, 75, 600)


@pytest.mark.parametrize(
    ("window", "start", "end"),
    [
        (Window.MINUTE, "2026-11-26T15:49:00", "2026-11-26T15:50:00"),
        (Window.HOUR, "2026-11-26T15:00:00", "2026-11-26T16:00:00"),
        (Window.DAY, "2026-11-26T00:00:00", "2026-11-27T00:00:00"),
        (Window.MONTH, "2026-11-01T00:00:00", "2026-12-01T00:00:00"),
    ],
)
def test_a_window_begins_and_ends_as_in_utc(window: Window, start: str, end: str) -> None:
    ends = window_end(window, NOVEMBER)

    assert ends is not None
    assert [window_start(window, NOVEMBER), ends] == [
        datetime.fromisoformat(f"{each}+00:00").timestamp() for each in (start, end)
    ]


@given(st.sampled_from(Window), st.floats(0, 4e9))
def test_every_time_lies_in_its_window_and_the_next_one_begins_where_it_ends(
    window: Window, unix_s: float
) -> None:
    start, end = window_start(window, unix_s), window_end(window, unix_s)

    assert start <= unix_s
    assert window_start(window, start) == start
    if end is not None:
        assert unix_s < end
        assert window_start(window, end) == end


def test_a_charge_is_the_most_that_an_attempt_may_cost() -> None:
    budgets = [
        Budget("acme/month", Unit.TOKENS, Window.TOTAL),
        Budget("acme/spend", Unit.MONEY, Window.TOTAL, hard=False),
        Budget("acme/nightly", Unit.TOKENS, Window.TOTAL, workload="nightly"),
    ]

    charges = charged(budgets, "web", Size(100, 10), price=PRICE, unix_s=NOVEMBER)

    assert [(each.account, each.reserved, each.hard) for each in charges] == [
        (("acme/month", 0), 110, True),
        (("acme/spend", 0), 100 * 150 + 10 * 600, False),
    ]


def test_a_model_without_a_price_costs_nobody_knows_what() -> None:
    prices = Prices({"tiny": PRICE})
    budget = Budget("acme/spend", Unit.MONEY, Window.DAY)

    with pytest.raises(NotPriced, match="acme/spend"):
        charged([budget], "web", Size(1, 1), price=prices.of("large"), unix_s=NOVEMBER)
    assert Prices({"*": PRICE}).of("large") == PRICE


def test_an_estimated_prompt_gets_more_room_than_a_counted_one() -> None:
    assert at_most(100, 10, exact=True) == Size(100, 10)
    assert at_most(100, 10, exact=False).prompt_tokens == 214
