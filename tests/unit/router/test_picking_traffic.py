"""What weights do to the traffic of a minute, on simulated engines in virtual time."""

from functools import cache

import pytest

from services.router.core.weights import Weights
from tests.unit.router.traffic import Seen, Street, conversations, nothing_shared

ROUND_ROBIN = Weights().scaled(0, cached=0)
LEAST_LOAD = Weights().scaled(1, cached=0)
# All engines together have room for the system prompts, one alone has not.
SHARED = conversations(systems=40, system_words=1000, turns=2)


@cache
def shared(weights: Weights) -> Seen:
    return Street(weights, warm_s=15.0).live(SHARED, people=40, for_s=40.0)


def test_conversations_find_twice_as_much_cached_as_by_round_robin() -> None:
    assert shared(Weights()).hit_rate > 2 * shared(ROUND_ROBIN).hit_rate


@pytest.mark.parametrize("other", [ROUND_ROBIN, LEAST_LOAD], ids=["round robin", "least load"])
def test_more_is_done_and_begins_sooner(other: Weights) -> None:
    assert shared(Weights()).requests > 1.5 * shared(other).requests
    assert shared(Weights()).ttft_p95_s < shared(other).ttft_p95_s


def test_what_is_expected_comes_true() -> None:
    seen = shared(Weights())

    assert seen.expected_tokens == pytest.approx(seen.cached_tokens, rel=0.05)


def test_where_nothing_is_shared_it_is_least_load() -> None:
    ours, least_load = (
        Street(weights, warm_s=5.0).live(nothing_shared, people=24, for_s=35.0)
        for weights in (Weights(), LEAST_LOAD)
    )

    assert ours.cached_tokens == 0
    assert ours.requests == pytest.approx(least_load.requests, rel=0.03)


def test_what_would_be_evicted_counts() -> None:
    assert shared(Weights()).hit_rate > 1.25 * shared(Weights(evicted=0)).hit_rate


def test_a_prompt_that_all_share_spreads_and_overloads_nobody_for_long() -> None:
    hot = conversations(systems=1, system_words=1500, turns=1)
    ours, least_load = (
        Street(weights, warm_s=10.0).live(hot, people=40, for_s=30.0)
        for weights in (Weights(), LEAST_LOAD)
    )

    assert ours.requests > 0.9 * least_load.requests  # people think at random
    assert ours.ttft_p95_s < 1.25 * least_load.ttft_p95_s
