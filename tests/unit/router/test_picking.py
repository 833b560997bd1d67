"""Picks against a plain comparison of all endpoints, and what their order is about."""

import heapq
import random
from dataclasses import dataclass, replace
from statistics import mean, pstdev

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.router.core.inflight import Slot
from services.router.core.picking import KEPT, LOOKED_AT, TRIED, Filter, Pick, Wanted
from services.router.core.prefixes import BLOCK_TOKENS
from services.router.core.requests import Requests
from services.router.core.saturation import Vacancies
from services.router.core.weights import Weights
from tests.unit.router.values import A, B, busy, decision, endpoints, model, picker, state

KEYS = (1, 2, 3, 4)
LEAST_LOAD, NONE = Weights().scaled(1, cached=0), Weights().scaled(0, cached=0)
WANTED = Wanted("small", keys=KEYS, prompt_tokens=4 * BLOCK_TOKENS, output_tokens=10)


@dataclass(frozen=True)
class There:
    """One endpoint."""

    prefill_tokens: int = 0
    decode_tokens: int = 0
    blocks: int = 0  # of the prompt, sent there before
    kv_free: int = 1000  # blocks of 16 tokens


theres = st.lists(
    st.builds(
        There,
        prefill_tokens=st.sampled_from([0, 64, 128]),  # few values, so that ties are common
        decode_tokens=st.sampled_from([0, 256]),
        blocks=st.integers(0, 4),
        kv_free=st.sampled_from([0, 1000]),
    ),
    max_size=KEPT,
)


def address(number: int) -> str:
    return f"10.0.0.{number}:8000"


def picked(there: list[There], *filters: Filter, weights: Weights | None = None) -> Pick:
    requests = Requests(weights=weights)
    known = endpoints(*(address(number) for number in range(len(there))))
    for number, each in enumerate(there):
        where = address(number)
        room = {"kv_blocks_free": each.kv_free, "kv_blocks_total": 1000, "kv_block_tokens": 16}
        known.saw(where, state(**room))
        requests.expectations.resize(where, kv_tokens=1000 * BLOCK_TOKENS)
        requests.expectations.sent(where, KEYS[: each.blocks])
        tokens = each.prefill_tokens + each.decode_tokens
        slot = Slot(where, tokens, 1e9, each.prefill_tokens, each.decode_tokens)
        requests.admit(decision(where), slot)
    return picker(known, requests, *filters).pick(WANTED, now_s=0.0)


def cost(each: There, weights: Weights) -> float:
    missing = max(0, 4 * BLOCK_TOKENS + 10 - 16 * each.kv_free)
    return (
        weights.prefill * (each.prefill_tokens + 4 * BLOCK_TOKENS)
        + weights.decode * each.decode_tokens
        - weights.cached * each.blocks * BLOCK_TOKENS
        + weights.kv * missing
    )


@settings(deadline=None)  # a busy machine is no fault
@given(theres, st.sampled_from([Weights(), LEAST_LOAD, NONE]))
def test_the_lowest_cost_is_first_and_every_cost_is_shown(
    there: list[There], weights: Weights
) -> None:
    pick = picked(there, weights=weights)

    costs = {address(number): cost(each, weights) for number, each in enumerate(there)}
    assert {each.address: each.cost for each in pick.candidates} == costs
    assert [each.cost for each in pick.candidates] == sorted(costs.values())
    assert list(pick.addresses) == [each.address for each in pick.candidates][:TRIED]


@settings(deadline=None)  # a busy machine is no fault
@given(st.lists(st.sampled_from([0, 64, 128]), min_size=1, max_size=40))
def test_of_many_endpoints_the_cheapest_are_found(prefill: list[int]) -> None:
    pick = picked([There(prefill_tokens=each) for each in prefill])

    assert [each.prefill_tokens for each in pick.candidates] == sorted(prefill)[:KEPT]
    assert sum(pick.others.values()) == max(0, len(prefill) - KEPT)


MANY = [address(number) for number in range(5 * LOOKED_AT)]


def test_of_very_many_endpoints_each_is_looked_at_in_turn() -> None:
    requests = Requests()
    picks = picker(endpoints(*MANY), requests)

    first = {picks.pick(WANTED, now_s=0.0).addresses[0] for _ in range(5)}

    assert len(first) == 5


def test_loads_of_very_many_are_nearly_as_even_as_if_all_were_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few = _unevenness()
    monkeypatch.setattr("services.router.core.picking.LOOKED_AT", len(MANY))

    assert few < 1.1 * _unevenness()


def _unevenness() -> float:
    """Of loads, when requests of very different sizes come and go."""
    chance, requests = random.Random(1), Requests()  # noqa: S311 - repeatable
    picks = picker(endpoints(*MANY), requests)
    running: list[tuple[float, str]] = []
    for number in range(4000):
        tokens = int(chance.lognormvariate(6.0, 1.0))
        wanted = replace(WANTED, prompt_tokens=tokens)
        address = picks.pick(wanted, now_s=0.0).addresses[0]
        slot = Slot(address, tokens, expires_at_s=1e9, prefill_tokens=tokens)
        requests.in_flight.admit(str(number), slot)
        heapq.heappush(running, (number + chance.expovariate(1 / (8 * len(MANY))), str(number)))
        while running[0][0] < number:
            requests.in_flight.end(heapq.heappop(running)[1])
    loads = [requests.load(each).tokens for each in MANY]
    return pstdev(loads) / mean(loads)


@pytest.mark.parametrize("where", [MANY[0], MANY[LOOKED_AT], MANY[-1]])
def test_of_very_many_the_one_that_has_the_prompt_is_found(where: str) -> None:
    requests = Requests()
    picks = picker(endpoints(*MANY), requests)
    for each in MANY:
        requests.expectations.resize(each, kv_tokens=1000 * BLOCK_TOKENS)
        requests.expectations.sent(each, KEYS[:1])
    requests.expectations.sent(where, KEYS)

    for _ in range(6):
        assert picks.pick(WANTED, now_s=0.0).addresses[0] == where


@pytest.mark.parametrize("where", [MANY[0], MANY[LOOKED_AT], MANY[-1]])
def test_of_very_many_the_one_that_has_room_is_found(where: str) -> None:
    wanted = replace(WANTED, vacancies=Vacancies(frozenset(MANY) - {where}, frozenset({where})))
    picks = picker(endpoints(*MANY))

    for _ in range(6):
        pick = picks.pick(wanted, now_s=0.0)
        assert pick.addresses[0] == where
        assert len(pick.addresses) == TRIED


def test_of_very_many_none_is_looked_at_that_is_left_out() -> None:
    out = dict.fromkeys(MANY[: 2 * LOOKED_AT], "circuit open")
    picks = picker(endpoints(*MANY), None, Filter(lambda _: out))

    for _ in range(6):
        pick = picks.pick(WANTED, now_s=0.0)
        assert len(pick.addresses) == TRIED
        assert not out.keys() & set(pick.addresses)
        assert sum(pick.others.values()) + len(pick.candidates) == len(MANY)


def test_a_cached_prefix_is_worth_as_much_load_as_its_weight_says() -> None:
    worth = round(Weights().cached / Weights().prefill * 4 * BLOCK_TOKENS)
    behind = There(prefill_tokens=worth - 1, blocks=4)
    too_far_behind = There(prefill_tokens=worth + 1, blocks=4)

    assert picked([There(), behind]).addresses[0] == address(1)
    assert picked([There(), too_far_behind]).addresses[0] == address(0)


def test_the_expected_tokens_of_the_first_are_remembered() -> None:
    pick = picked([There(), There(blocks=3)])

    assert pick.candidates[0].cached_tokens == pick.prefix.held_tokens == 3 * BLOCK_TOKENS
    assert pick.prefix.keys == KEYS


def test_an_endpoint_without_room_in_its_kv_cache_comes_last() -> None:
    pick = picked([There(kv_free=0), There(decode_tokens=256)])

    assert [each.kv_missing_tokens for each in pick.candidates] == [0, 4 * BLOCK_TOKENS + 10]


def test_ties_go_to_fewer_requests_then_to_the_lower_address() -> None:
    requests = busy({A: 1000})
    tied = picker(endpoints(A, B), requests)
    assert picker(endpoints(A, B)).pick(WANTED, 0.0).addresses == [A, B]

    requests.admit(decision("r1"), Slot(B, 600, 1e9, 600))
    requests.admit(decision("r2"), Slot(B, 400, 1e9, 400))
    assert tied.pick(WANTED, 0.0).addresses == [A, B]


def test_without_weights_endpoints_take_turns_whatever_their_load() -> None:
    requests = busy({A: 1000})
    requests.weights = NONE
    requests.in_flight = type(requests.in_flight)(requests.weights)
    around = picker(endpoints(A, B), requests)

    assert [around.pick(WANTED, 0.0).addresses[0] for _ in range(4)] == [A, B, A, B]


def test_a_filter_leaves_out_and_says_why() -> None:
    pick = picked([There(), There()], Filter(lambda _: {address(0): "ejected"}))

    assert [(each.address, each.left_out) for each in pick.candidates] == [
        (address(1), ""),
        (address(0), "ejected"),
    ]


def test_a_filter_that_would_leave_out_too_many_is_passed_over() -> None:
    two = {address(0): "slow", address(1): "slow"}

    assert len(picked([There()] * 2, Filter(lambda _: two)).addresses) == 2
    assert picked([There()] * 3, Filter(lambda _: two)).addresses == [address(2)]
    assert len(picked([There()] * 3, Filter(lambda _: two, most=lambda _: 1)).addresses) == 3


def test_full_endpoints_come_last_and_may_be_retried() -> None:
    known = endpoints(A, B)
    requests = busy({B: 1000})
    around = picker(known, requests)

    pick = around.pick(replace(WANTED, vacancies=Vacancies({A})), 0.0)
    assert (pick.addresses, [each.full for each in pick.candidates]) == ([B, A], [False, True])
    assert around.pick(WANTED, 0.0).addresses == [A, B]


def test_filters_follow_one_another() -> None:
    pick = picked(
        [There(), There(), There()],
        Filter(lambda _: {address(0): "one"}),
        Filter(lambda _: {address(0): "two", address(1): "two"}),
    )

    assert {each.address: each.left_out for each in pick.candidates} == {
        address(0): "one",
        address(1): "two",
        address(2): "",
    }


def test_what_is_left_out_beyond_the_shown_is_counted_by_reason() -> None:
    out = {address(number): "ejected" for number in range(20)}
    pick = picked([There()] * 30, Filter(lambda _: out))

    assert len(pick.candidates) == KEPT
    assert pick.others == {"": 10 - KEPT, "ejected": 20}


def test_what_runtimes_say_anew_counts_at_once() -> None:
    known = endpoints(A, B)
    one = picker(known)
    assert set(one.pick(WANTED, 0.0).addresses) == {A, B}

    known.lost(A)
    assert one.pick(WANTED, 0.0).addresses == [B]

    known.saw(A, state(model(model="other")))
    assert {each.left_out for each in one.pick(WANTED, 0.0).candidates} == {"", "model not served"}

    known.saw(A, state())
    known.drain(B)
    assert one.pick(WANTED, 0.0).addresses == [A]
