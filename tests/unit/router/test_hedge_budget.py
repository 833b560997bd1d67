"""How many hedges there may be, whatever happens and whenever it is told."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.router.core.hedge_budget import BURST, MOST_SHARE, HedgeBudget

# For each request: seconds since the one before, whether its hedge is sent, how late that is told.
REQUESTS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.001, 0.01, 0.1, 1.0]),
        st.booleans(),
        st.sampled_from([0.0, 0.05, 0.3]),
    ),
    min_size=1,
    max_size=400,
)
DECIDED_AFTER_S = 0.3


@settings(deadline=None)  # a busy machine is no fault
@given(REQUESTS, st.sampled_from([0.01, 0.05, 0.1]), st.data())
def test_no_window_has_more_hedges_than_its_share_a_burst_and_what_was_promised(
    requests: list[tuple[float, bool, float]], share: float, data: st.DataObject
) -> None:
    budget, now_s, most_promised = HedgeBudget(share), 0.0, 0
    sent: list[int] = []  # numbers of the requests
    told: list[tuple[float, str]] = []
    for number, (later_s, is_sent, late_s) in enumerate(requests):
        now_s += later_s
        for at_s, name in [each for each in told if each[0] <= now_s]:
            budget.spend(name, at_s)
        told = [each for each in told if each[0] > now_s]
        planned = budget.allows(now_s)
        budget.earn(now_s)
        if planned:
            budget.promise(str(number), decided_at_s=now_s + DECIDED_AFTER_S)
            if is_sent:
                sent.append(number)
                told.append((now_s + late_s, str(number)))
        most_promised = max(most_promised, budget.promised(now_s))

    first = data.draw(st.integers(0, len(requests) - 1))
    last = data.draw(st.integers(first, len(requests) - 1))
    within = sum(first <= number <= last for number in sent)
    assert within <= share * (last - first + 1) + BURST + most_promised


def test_a_request_earns_its_share_and_a_hedge_takes_one() -> None:
    budget = HedgeBudget(0.05)
    for number in range(int(BURST)):
        assert budget.allows(0.0)
        budget.spend(str(number), 0.0)
    assert not budget.allows(0.0)

    for _ in range(20):
        budget.earn(0.0)

    assert budget.tokens == pytest.approx(1.0)


def test_what_was_overdrawn_is_earned_back_first() -> None:
    budget = HedgeBudget(0.1)
    for number in range(int(BURST) + 5):
        budget.spend(str(number), 0.0)

    for _ in range(59):
        budget.earn(0.0)

    assert not budget.allows(0.0)
    budget.earn(0.0)
    assert budget.tokens == pytest.approx(1.0)


def test_were_all_promised_hedges_sent_they_would_be_a_tenth_of_a_minutes_requests() -> None:
    budget, promised = HedgeBudget(0.05), 0
    for number in range(2000):
        budget.earn(0.0)
        if budget.allows(0.0):
            budget.promise(str(number), decided_at_s=1.0)
            promised += 1

    assert promised <= MOST_SHARE * 2000 + BURST


def test_a_promise_ends_when_it_is_released_sent_or_decided() -> None:
    budget = HedgeBudget(0.05)
    for name in ("released", "sent", "decided", "open"):
        budget.promise(name, decided_at_s=2.0 if name == "open" else 1.0)

    budget.release("released")
    budget.spend("sent", 0.5)

    assert budget.promised(0.9) == 2
    assert budget.promised(1.0) == 1


def test_no_share_above_a_tenth() -> None:
    with pytest.raises(ValueError, match=r"from 0 to 0\.1"):
        HedgeBudget(0.11)


def test_no_more_is_saved_up_than_a_burst() -> None:
    budget = HedgeBudget(0.1)

    for _ in range(100):
        budget.earn(0.0)

    assert budget.tokens == BURST
