"""Whether a request may be sent a second time, and when."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.router.core.demands import WorkloadClass
from services.router.core.first_tokens import FEWEST
from services.router.core.hedge_budget import BURST
from services.router.core.hedging import (
    LATE_TIMES,
    LEAST_DELAY_S,
    Hedgeable,
    HedgePlan,
    Hedging,
    NotHedged,
    arranged,
)
from tests.unit.router.values import A, B

C = "127.0.0.1:9103"


def hedging(took_s: float = 0.1, share: float = 0.05) -> Hedging:
    """One that has seen enough first tokens."""
    made = Hedging(share)
    for _ in range(int(FEWEST)):
        made.first_tokens.learn("small", 10, took_s, 0.0)
    return made


def asked(**changes: Any) -> Hedgeable:
    values: dict[str, Any] = {
        "model": "small",
        "workload_class": WorkloadClass.INTERACTIVE,
        "uncached_prompt_tokens": 10,
        "output_tokens": 100,
        "endpoints": (A, B, C),
        "timeout_s": 60.0,
    }
    return Hedgeable(**{**values, **changes})


def all_but(*busy: str) -> Callable[[str], bool]:
    return lambda address: address not in busy


def test_a_late_request_goes_to_the_next_endpoint() -> None:
    plan = hedging(0.1).decide(asked(), all_but(), 0.0)

    assert isinstance(plan, HedgePlan)
    assert plan.endpoint == B
    assert plan.delay_s == pytest.approx(0.1 * LATE_TIMES, rel=0.06)


def test_high_risk_requests_are_hedged_within_their_own_endpoints() -> None:
    plan = hedging().decide(
        asked(workload_class=WorkloadClass.HIGH_RISK, endpoints=(A, C)), all_but(), 0.0
    )

    assert isinstance(plan, HedgePlan)
    assert plan.endpoint == C


@pytest.mark.parametrize(
    ("changes", "busy", "why"),
    [
        ({"output_tokens": 0}, (), NotHedged.NO_OUTPUT),
        ({"workload_class": WorkloadClass.BATCH}, (), NotHedged.CLASS),
        ({"endpoints": (A,)}, (), NotHedged.NO_SECOND_ENDPOINT),
        ({}, (B, C), NotHedged.NO_SECOND_ENDPOINT),
        ({}, (A, B, C), NotHedged.SATURATED),
        ({"model": "large"}, (), NotHedged.FEW_SAMPLES),
        ({"timeout_s": 0.15}, (), NotHedged.DEADLINE),
    ],
)
def test_there_is_a_word_for_why_not(
    changes: dict[str, Any], busy: tuple[str, ...], why: NotHedged
) -> None:
    assert hedging().decide(asked(**changes), all_but(*busy), 0.0) is why


def test_without_a_share_there_is_no_hedge() -> None:
    assert hedging(share=0.0).decide(asked(), all_but(), 0.0) is NotHedged.OFF


def test_a_spent_budget_says_so() -> None:
    made = hedging()
    for number in range(int(BURST)):
        made.budget.spend(str(number), 0.0)

    assert made.decide(asked(), all_but(), 0.0) is NotHedged.BUDGET_SPENT


def test_the_second_arm_goes_to_the_best_that_is_free() -> None:
    plan = hedging().decide(asked(), all_but(B), 0.0)

    assert isinstance(plan, HedgePlan)
    assert arranged((A, B, C), plan) == (A, C, B)


@settings(deadline=None)  # a busy machine is no fault
@given(st.permutations([A, B, C]), st.integers(1, 2))
def test_an_order_loses_and_gains_nobody(endpoints: list[str], second: int) -> None:
    plan = HedgePlan(endpoints[second], 0.1)

    found = arranged(endpoints, plan)

    assert sorted(found) == sorted(endpoints)
    assert found[0] == endpoints[0]
    assert found[1] == plan.endpoint


@settings(deadline=None)  # a busy machine is no fault
@given(st.floats(0.001, 10.0))
def test_the_delay_is_whole_milliseconds_and_above_the_times_it_is_made_of(took_s: float) -> None:
    delay_s = hedging(took_s).delay_s(asked(), 0.0)

    assert delay_s is not None
    assert delay_s >= max(LEAST_DELAY_S, LATE_TIMES * took_s * 0.999)
    assert delay_s * 1000 == pytest.approx(round(delay_s * 1000))
