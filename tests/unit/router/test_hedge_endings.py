"""What the end of a request tells of its hedge."""

from typing import Any

import pytest

from services.router.core.circuits import Outcome, outcomes
from services.router.core.endings import Code, Ended
from services.router.core.hedge_endings import resolved, took_s
from services.router.core.hedging import HedgePlan
from tests.unit.router.values import A, B, ended

PLAN = HedgePlan(B, 0.1)


def end(**changes: Any) -> Ended:
    """Read after 10 ms, waited for 2 ms in the router."""
    return resolved(ended(**{"read_s": 0.01, **changes}), PLAN, (A, B), queue_wait_s=0.002)


WON = {"attempts": 2, "echoed_attempt": 2, "sent_s": 0.113, "first_token_s": 0.15, "endpoint": B}
LOST = {"attempts": 2, "sent_s": 0.013, "first_token_s": 0.2}
RETRIED = {"attempts": 2, "echoed_attempt": 2, "sent_s": 0.02, "first_token_s": 0.1, "endpoint": B}
LATE_BOTH = {
    "attempts": 2,
    "sent_s": 0.113,
    "first_token_s": None,
    "engine": "",
    "usage": None,
    "grpc_code": Code.DEADLINE_EXCEEDED,
}


@pytest.mark.parametrize(
    ("changes", "hedged", "answered", "won"),
    [
        ({}, False, 0, False),
        (WON, True, 2, True),
        (WON | {"sent_s": 0.111}, True, 2, True),  # Envoy's timers may be early
        (LOST, True, 1, False),
        (RETRIED, False, 2, False),
        (LATE_BOTH, True, 0, False),
    ],
)
def test_a_hedge_is_told_from_a_retry(
    changes: dict[str, Any], hedged: bool, answered: int, won: bool
) -> None:
    seen = end(**changes)

    assert (seen.hedged, seen.answered_attempt, seen.hedge_won) == (hedged, answered, won)


@pytest.mark.parametrize(
    ("changes", "endpoint"), [(LOST | {"endpoint": B}, A), (WON, B), (RETRIED, B)]
)
def test_whoever_answered_is_named(changes: dict[str, Any], endpoint: str) -> None:
    assert end(**changes).endpoint == endpoint


@pytest.mark.parametrize(
    ("changes", "took"),
    [
        ({"sent_s": 0.01, "first_token_s": 0.06}, 0.05),
        (WON, 0.1 + 0.037),
        (LOST, 0.187),
        (RETRIED, None),
        ({"sent_s": None}, None),
        (LATE_BOTH | {"duration_s": 1.113}, 1.0),
        (
            {"sent_s": 0.01, "first_token_s": None, "grpc_code": Code.CANCELLED, "duration_s": 0.4},
            0.39,
        ),
        (
            {"sent_s": 0.01, "first_token_s": None, "grpc_code": Code.CANCELLED, "duration_s": 0.1},
            None,
        ),
    ],
)
def test_what_a_request_tells_of_its_first_token(
    changes: dict[str, Any], took: float | None
) -> None:
    found = took_s(end(**changes), PLAN)

    assert found == (None if took is None else pytest.approx(took))


def test_a_lost_race_opens_no_circuit() -> None:
    assert list(outcomes((A, B), end(**WON))) == [Outcome(B, succeeded=True)]


def test_a_failure_before_a_retry_still_counts() -> None:
    assert list(outcomes((A, B), end(**RETRIED))) == [
        Outcome(A, succeeded=False),
        Outcome(B, succeeded=True),
    ]
