"""What a tenant's limits let go, without a mesh."""

from dataclasses import replace

import pytest

from services.router.core.demands import Output
from services.router.core.eligibility import Eligibility, KvCache
from services.router.core.endings import Usage
from services.router.core.endpoints import Endpoints
from services.router.core.lanes import Lane
from services.router.core.limits import Elsewhere, Limiting, Taken
from services.router.core.tenants import NO_LIMITS, Limits
from services.router.core.verdicts import Reason, Refused
from services.router.core.wishes import Wish, wish_of
from tests.unit.router.values import SMALL, A, B, demand, ended, lost, model, state, tenant

FIELD = "sampling.max_output_tokens"
KV = KvCache(blocks=100, block_tokens=16)


class Asking:
    """One tenant with limits, which asks and is let go where it may."""

    def __init__(self, **limits: float) -> None:
        self.limiting = Limiting()
        self.limiting.limits_of = lambda _: self.limits
        self.limits = Limits(**limits)  # type: ignore[arg-type] # by name
        self.number = 0

    def wish(self, tokens: int = 100, kv_cache: KvCache = KV) -> Wish:
        asked = demand(output=Output(tokens - 10, FIELD))
        return wish_of(asked, tenant(limits=self.limits), kv_cache)

    def ask(self, now_s: float = 0.0, *, tokens: int = 100) -> Refused | None:
        wish = self.wish(tokens)
        refused = self.limiting.too_often(wish.tenant, now_s)
        refused = refused or self.limiting.refused(wish, now_s)
        if refused is None:
            self.limiting.let_go(f"r{self.number}", wish.tenant, wish, now_s)
            self.number += 1
        return refused

    def counted(self) -> int:
        return self.limiting.accounts["acme"].tokens.total


def reason(refused: Refused | None) -> Reason:
    assert refused is not None
    return refused.reason


def test_no_more_requests_than_its_limit_go_in_a_minute_and_it_hears_when_the_next_may() -> None:
    acme = Asking(requests_per_minute=2)
    assert acme.ask(0.0) is acme.ask(10.0) is None

    refused = acme.ask(20.0)

    assert reason(refused) is Reason.REQUEST_RATE_LIMIT
    assert refused is not None
    assert refused.retry_after_s is not None
    assert refused.retry_after_s == pytest.approx(40.0625, abs=0.001)
    assert acme.ask(20.0 + refused.retry_after_s) is None


def test_tokens_count_as_they_may_be_used_and_then_as_they_were() -> None:
    acme = Asking(tokens_per_minute=200)
    assert acme.ask(0.0, tokens=150) is None
    assert reason(acme.ask(1.0)) is Reason.TOKEN_RATE_LIMIT

    acme.limiting.ended("r0", ended(usage=Usage(10, 0, 20)), 2.0)

    assert acme.counted() == 30
    assert acme.ask(2.0, tokens=170) is None


def test_a_request_above_a_minutes_tokens_is_told_what_to_mend_and_not_to_wait() -> None:
    acme = Asking(tokens_per_minute=50)

    refused = acme.ask()

    assert reason(refused) is Reason.TOKEN_RATE_LIMIT
    assert refused is not None
    assert (refused.field, refused.retry_after_s) == (FIELD, None)


def test_a_prompt_that_alone_is_too_long_is_what_to_mend() -> None:
    acme = Asking(tokens_per_minute=50)

    refused = acme.limiting.refused(replace(acme.wish(), prompt_tokens=60), 0.0)

    assert refused is not None
    assert refused.field == "input"


def test_no_more_requests_run_at_once_and_an_end_makes_room() -> None:
    acme = Asking(concurrent_requests=2)
    assert acme.ask(0.0) is acme.ask(1.0) is None
    assert reason(acme.ask(2.0)) is Reason.CONCURRENCY_LIMIT

    acme.limiting.ended("r0", None, 3.0)

    assert acme.ask(3.0) is None


@pytest.mark.parametrize(("took_s", "expected_s"), [(0.1, 1.0), (13.0, 9.0), (500.0, 30.0)])
def test_when_one_ends_is_estimated_by_those_before_it_within_bounds(
    took_s: float, expected_s: float
) -> None:
    acme = Asking(concurrent_requests=1)
    acme.ask(0.0)
    acme.limiting.ended("r0", None, took_s)
    acme.ask(took_s)

    refused = acme.ask(took_s + 4.0)

    assert refused is not None
    assert refused.retry_after_s == pytest.approx(expected_s)


def test_no_more_kv_blocks_are_held_than_its_share() -> None:
    acme = Asking(kv_share=0.25)  # 25 of 100 blocks; a request of 100 tokens may need 7
    assert [acme.ask() for _ in range(3)] == [None] * 3

    refused = acme.ask()

    assert reason(refused) is Reason.KV_LIMIT
    assert refused is not None
    assert refused.retry_after_s == 1.0
    assert acme.ask(tokens=64) is None
    acme.limiting.ended("r0", None, 1.0)
    assert acme.ask(tokens=112) is None


def test_when_blocks_are_free_is_estimated_by_the_requests_that_hold_them() -> None:
    acme = Asking(kv_share=0.25)
    acme.ask(0.0)
    acme.limiting.ended("r0", None, 20.0)
    large = replace(acme.wish(), lane=Lane("large"))
    acme.limiting.let_go("large", large.tenant, large, 20.0)
    assert [acme.ask(25.0) for _ in range(3)] == [None] * 3

    refused = acme.ask(30.0)

    assert refused is not None
    assert refused.retry_after_s == pytest.approx(15.0)


def test_a_request_larger_than_the_share_is_told_what_to_mend() -> None:
    refused = Asking(kv_share=0.25).ask(tokens=401)

    assert reason(refused) is Reason.KV_LIMIT
    assert refused is not None
    assert (refused.field, refused.retry_after_s) == (FIELD, None)


def test_where_no_endpoint_tells_its_blocks_no_share_is_held_against_anybody() -> None:
    acme = Asking(kv_share=0.01)

    assert acme.limiting.refused(acme.wish(kv_cache=KvCache()), 0.0) is None


def test_a_pools_blocks_are_those_of_its_ready_endpoints_for_the_model() -> None:
    known = Endpoints([A, B, "127.0.0.1:9103"])
    known.saw(A, state(kv_blocks_total=100, kv_block_tokens=16))
    known.saw(B, state(kv_blocks_total=50, kv_block_tokens=32))
    known.saw("127.0.0.1:9103", state(model(model="large"), kv_blocks_total=9, kv_block_tokens=16))
    eligibility = Eligibility(known)

    assert eligibility.of("small", "").kv_cache == KvCache(100, 32)
    known.lost(B)
    assert eligibility.of("small", "").kv_cache == KvCache(100, 16)
    known.saw(A, state(kv_blocks_total=300, kv_block_tokens=16))
    assert eligibility.of("small", "").kv_cache == KvCache(300, 16)
    assert eligibility.of("small", "vault").kv_cache == KvCache()


def test_a_lower_limit_holds_at_once_and_what_is_under_way_goes_on() -> None:
    acme = Asking(concurrent_requests=3)
    assert [acme.ask() for _ in range(3)] == [None] * 3

    acme.limits = Limits(concurrent_requests=1)

    for end in ("r0", "r1"):
        acme.limiting.ended(end, None, 1.0)
        assert reason(acme.ask(1.0)) is Reason.CONCURRENCY_LIMIT
    acme.limiting.ended("r2", None, 1.0)
    assert acme.ask(1.0) is None


def test_a_hedges_other_arm_is_no_request_but_its_tokens_count() -> None:
    acme = Asking(tokens_per_minute=1000, concurrent_requests=2)
    acme.ask()
    acme.limiting.lost(lost("r0", usage=Usage(10, 0, 5)), 1.0)

    acme.limiting.ended("r0", ended("r0", usage=Usage(10, 0, 20)), 1.0)
    acme.limiting.lost(lost("r0", number=2, usage=Usage(10, 0, 3)), 2.0)

    assert acme.counted() == 30 + 15 + 13


@pytest.mark.parametrize(
    ("attempts", "counted"), [(1, 100), (0, 0)], ids=["sent to a runtime", "sent nowhere"]
)
def test_a_cancelled_request_counts_in_full_until_its_runtime_tells(
    attempts: int, counted: int
) -> None:
    acme = Asking(tokens_per_minute=1000)
    acme.ask()

    acme.limiting.ended("r0", ended("r0", usage=None, attempts=attempts), 1.0)
    assert acme.counted() == counted

    acme.limiting.lost(lost("r0", usage=Usage(10, 0, 7)), 1.2)
    assert acme.counted() == 17


def test_what_was_used_beyond_the_charge_is_paid_before_anything_goes() -> None:
    acme = Asking(tokens_per_minute=100)
    acme.ask(0.0)

    acme.limiting.ended("r0", ended(usage=Usage(150, 0, 50)), 1.0)

    refused = acme.ask(2.0)
    assert refused is not None
    assert refused.retry_after_s == pytest.approx(2 * 60.0625 - 2.0, abs=0.001)


def test_what_takes_no_engines_place_is_a_request_and_nothing_else() -> None:
    acme = Asking(requests_per_minute=1, tokens_per_minute=100, concurrent_requests=1, kv_share=0.1)
    whose = acme.wish().tenant

    acme.limiting.let_go("hit", whose, None, 0.0)

    assert "hit" not in acme.limiting
    assert acme.counted() == 0
    refused = acme.limiting.too_often(whose, 1.0)
    assert reason(refused) is Reason.REQUEST_RATE_LIMIT


def test_of_a_tenant_without_limits_nothing_is_kept() -> None:
    limiting, free = Limiting(), tenant()
    assert free.limits is NO_LIMITS

    limiting.let_go("r1", free, None, 0.0)

    assert not limiting.accounts
    assert not limiting.taken


def test_what_others_let_go_counts() -> None:
    acme = Asking(requests_per_minute=3, tokens_per_minute=1000, concurrent_requests=3)
    there = Taken(requests=2, tokens=900, running=2, blocks=40)
    acme.limiting.elsewhere(Elsewhere("acme", SMALL, there), 0.0)

    assert reason(acme.ask(0.0, tokens=101)) is Reason.TOKEN_RATE_LIMIT
    assert acme.ask(0.0, tokens=100) is None
    assert reason(acme.ask(0.0, tokens=11)) is Reason.REQUEST_RATE_LIMIT


def test_blocks_are_held_by_model_and_pool() -> None:
    acme = Asking(kv_share=0.25)
    acme.limiting.elsewhere(Elsewhere("acme", Lane("large"), Taken(blocks=25)), 0.0)
    assert acme.ask() is None

    acme.limiting.elsewhere(Elsewhere("acme", SMALL, Taken(blocks=25)), 0.0)

    assert reason(acme.ask()) is Reason.KV_LIMIT
