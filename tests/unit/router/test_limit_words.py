"""Two routers and more, as their words go to and fro: lost, repeated, late, by restarted ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.core import limit_words
from services.router.core.eligibility import KvCache
from services.router.core.lanes import Lane
from services.router.core.limit_words import AWAY_S, LimitPeer, LimitTelling, Minute, Told
from services.router.core.limits import Limiting, Taken
from services.router.core.sliding import TICKS_PER_S
from services.router.core.tenants import Limits
from services.router.core.wishes import wish_of
from tests.unit.router.values import demand, ended, tenant

LIMIT = 20
LIMITS = Limits(requests_per_minute=LIMIT)
ACME = tenant(limits=LIMITS)
WISH = wish_of(demand(), ACME, KvCache())


class Router:
    def __init__(self, name: str) -> None:
        self.instance_id = name
        self.limiting = Limiting()
        self.limiting.limits_of = lambda _: LIMITS
        self.let_go_at_s: list[float] = []

    def ask(self, now_s: float) -> bool:
        if self.limiting.too_often(ACME, now_s) is not None:
            return False
        name = f"{self.instance_id}-{len(self.let_go_at_s)}"
        self.limiting.let_go(name, ACME, WISH, now_s)
        self.let_go_at_s.append(now_s)
        return True

    def end(self, number: int, now_s: float) -> None:
        self.limiting.ended(f"{self.instance_id}-{number}", ended(), now_s)

    def running(self) -> int:
        account = self.limiting.accounts["acme"]
        return len(account.running) + account.running_elsewhere

    def requests(self) -> int:
        return self.limiting.accounts["acme"].requests.total


class Ear:
    """One router hears another."""

    def __init__(self, whose: Router, of: Router) -> None:
        self.of = of
        self.peer = LimitPeer(whose.limiting)
        self.telling = LimitTelling(of.limiting)

    def hear(self, now_s: float, *, times: int = 1) -> None:
        taken, minutes = self.telling.taken(), self.telling.minutes(now_s)
        for _ in range(times):
            self.peer.heard(self.of.instance_id, taken, minutes, now_s)

    def connect_again(self, now_s: float, *, away_s: float) -> None:
        self.peer.lost(now_s)
        self.telling = LimitTelling(self.of.limiting)
        self.peer.sweep(now_s + away_s)
        self.hear(now_s + away_s)


def connected() -> tuple[Router, Router, Ear]:
    """The second hears the first."""
    first, second = Router("first"), Router("second")
    ear = Ear(second, first)
    ear.hear(0.0)
    return first, second, ear


_LOOK_S = 0.1
_steps = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5)), max_size=300)


@given(_steps)
def test_a_minute_has_no_more_than_the_limit_and_what_went_before_routers_heard_of_each_other(
    steps: list[tuple[int, int]],
) -> None:
    """Each step is 100 ms, in which one of them is asked so often."""
    routers = [Router("first"), Router("second"), Router("third")]
    ears = [Ear(one, other) for one in routers for other in routers if one is not other]
    let_go: list[tuple[float, int]] = []
    unheard = 0
    for step, (whom, asked) in enumerate(steps):
        now_s = step * _LOOK_S
        for ear in ears:
            ear.hear(now_s)
        went = sum(routers[whom].ask(now_s) for _ in range(asked))
        let_go.append((now_s, went))
        unheard = max(unheard, went)
        assert sum(number for at_s, number in let_go if at_s > now_s - 60.0) <= LIMIT + 2 * unheard


def test_two_routers_that_hear_of_each_other_let_go_what_one_would() -> None:
    first, second, ear = connected()
    back = Ear(first, second)
    back.hear(0.0)
    for step in range(100):
        ear.hear(step * 0.1)
        back.hear(step * 0.1)
        (first if step % 2 else second).ask(step * 0.1)

    assert len(first.let_go_at_s) + len(second.let_go_at_s) == LIMIT


def test_both_full_at_once_is_paid_back_in_the_next_minute() -> None:
    """What went in the 100 ms before they heard of each other: the limit once each."""
    first, second, ear = connected()
    back = Ear(first, second)
    back.hear(0.0)
    for router in (first, second):
        assert all(router.ask(0.0) for _ in range(LIMIT))
    for each in (ear, back):
        each.hear(0.1)

    assert not any(router.ask(61.0 + at) for at in range(59) for router in (first, second))
    assert first.ask(2 * (60.0 + 1 / TICKS_PER_S) + 0.2)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=30))
def test_lost_and_repeated_words_change_nothing(events: list[tuple[int, int]]) -> None:
    first, second, ear = connected()
    ended_there = 0
    for now_s, (asked, times) in enumerate(events):
        for _ in range(asked):
            first.ask(float(now_s))
        if times and ended_there < len(first.let_go_at_s):
            first.end(ended_there, float(now_s))
            ended_there += 1
        if times:
            ear.hear(float(now_s), times=times)
    ear.hear(float(len(events)), times=2)
    first.ask(float(len(events)))  # so that both look at the same time
    ear.hear(float(len(events)))
    second.limiting.too_often(ACME, float(len(events)))

    if first.let_go_at_s:
        assert second.running() == first.running()
        assert second.requests() == first.requests()


def test_what_is_under_way_at_a_peer_counts_for_a_while_after_it_was_lost() -> None:
    first, second, ear = connected()
    first.ask(0.0)
    ear.hear(0.1)
    ear.peer.lost(1.0)
    ear.peer.sweep(1.0 + AWAY_S)
    assert second.running() == 1

    ear.peer.lost(5.0)  # tried in vain
    ear.peer.sweep(1.1 + AWAY_S)

    assert second.running() == 0


def test_a_peer_that_comes_back_is_counted_once() -> None:
    for away_s in (1.0, 2 * AWAY_S):
        first, second, ear = connected()
        first.ask(0.0)
        ear.hear(0.1)
        first.ask(0.5)

        ear.connect_again(1.0, away_s=away_s)

        assert (second.running(), second.requests()) == (2, 2)


def test_what_was_under_way_in_another_process_counts_no_more() -> None:
    first, second, ear = connected()
    first.ask(0.0)
    ear.hear(0.1)
    ear.of = again = Router("first, again")
    again.ask(1.0)

    ear.connect_again(1.0, away_s=1.0)

    assert (second.running(), second.requests()) == (1, 2)


def test_a_router_that_was_started_again_has_its_minute_from_its_peer() -> None:
    """Whoever let go what: the peer has heard of it, or did it itself."""
    first, second, ear = connected()
    for at in range(10):
        assert first.ask(float(at))
    assert second.ask(9.0)
    ear.hear(10.0)
    restarted = Router("first, again")
    restarted_ear = Ear(restarted, second)

    restarted_ear.hear(10.0, times=2)

    assert restarted.requests() == 11
    assert sum(restarted.ask(10.0) for _ in range(LIMIT)) == LIMIT - 11
    assert not restarted.ask(59.0)
    assert restarted.ask(72.0)


def test_a_router_that_knows_its_minute_takes_nothing_over() -> None:
    first, second, ear = connected()
    back = Ear(first, second)
    back.hear(0.0)
    for at in range(100):
        (first if at % 3 else second).ask(at * 0.55)
        ear.hear(at * 0.55 + 0.1)
        back.hear(at * 0.55 + 0.1)
    before = first.requests(), second.requests()

    ear.connect_again(55.0, away_s=0.5)
    back.connect_again(55.0, away_s=0.5)

    assert (first.requests(), second.requests()) == before


def test_what_is_too_much_for_one_word_comes_with_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limit_words, "AT_MOST", 2)
    first, second = Router("first"), Router("second")
    for at in range(5):
        other = tenant(id=f"t{at}", limits=LIMITS)
        wish = wish_of(demand(), other, KvCache())
        first.limiting.let_go(f"r{at}", other, wish, 0.0)
    ear = Ear(second, first)

    for expected in (2, 4, 5):
        ear.hear(0.0)
        assert sum(each.running_elsewhere for each in second.limiting.accounts.values()) == expected
    assert second.limiting.accounts["t4"].requests.total == 0, "what went before is forgiven"
    first.limiting.ended("r0", None, 1.0)
    ear.hear(1.0)
    assert second.limiting.accounts["t0"].running_elsewhere == 0
    assert not ear.telling.taken()


def test_words_that_cannot_be_meant_are_left_alone() -> None:
    second = Router("second")
    peer = LimitPeer(second.limiting)

    peer.heard("odd", [Told("acme", Lane("x"), Taken())], [Minute("acme", (1, 2), ())], 0.0)

    assert second.requests() == 0
