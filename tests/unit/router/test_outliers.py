"""Who does far worse than its peers is left alone for a while; what all do alike ejects nobody."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.router.core.endings import Code, Usage
from services.router.core.outliers import (
    EJECTED_MOST_S,
    EJECTED_S,
    ERRORS,
    FORGIVEN_AFTER_S,
    IN_A_ROW,
    LEAST_FIRSTS,
    SLOW,
    Answer,
    Outliers,
    answer,
    most_ejected,
    pool,
)
from services.router.core.picking import Candidate, Filter, Wanted
from tests.unit.router.values import A, B, ended, endpoints, picker

C = "127.0.0.1:9103"
POOL = (A, B, C)
FAST_S, SLOW_S = 0.2, 2.0


class Mesh:
    """Requests that end at once, one each tenth of a second."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses or POOL
        self.now_s = 100.0
        self.told: list[tuple[str, str]] = []
        self.outliers = Outliers(lambda address, why: self.told.append((address, why)))

    def answers(
        self,
        address: str,
        first_s: float = FAST_S,
        *,
        tokens: int = 10,
        failed: bool = False,
    ) -> None:
        self.now_s += 0.1
        said = Answer(address, failed, tokens, None if failed else first_s)
        self.outliers.learn(said, pool=self.addresses, began_s=self.now_s, now_s=self.now_s)

    def rounds(self, number: int = IN_A_ROW, **slow_s: float) -> None:
        """Everyone answers once in each. `a=2.0` says how long the first one takes."""
        for _ in range(number):
            for name, address in zip("abcdefghi", self.addresses, strict=False):
                self.answers(address, slow_s.get(name, FAST_S))

    def fails(self, address: str, times: int = IN_A_ROW) -> None:
        for _ in range(times):
            self.answers(address, failed=True)

    def ejected(self) -> dict[str, str]:
        all_ = {each: self.outliers.ejected(each, self.now_s) for each in self.addresses}
        return {address: why for address, why in all_.items() if why}


def test_far_later_first_tokens_than_its_peers_eject_it() -> None:
    mesh = Mesh()
    mesh.rounds(IN_A_ROW - 1, a=SLOW_S)
    assert mesh.ejected() == {}
    mesh.rounds(2, a=SLOW_S)

    assert mesh.ejected() == {A: SLOW}
    assert mesh.told == [(A, SLOW)]


def test_one_fast_answer_in_a_row_of_slow_ones_is_enough_to_stay() -> None:
    mesh = Mesh()
    mesh.rounds(IN_A_ROW - 1, a=SLOW_S)
    mesh.rounds(1)
    mesh.rounds(IN_A_ROW - 1, a=SLOW_S)

    assert mesh.ejected() == {}


def test_a_bit_slower_is_not_far() -> None:
    mesh = Mesh()
    mesh.rounds(20, a=2.9 * FAST_S)

    assert mesh.ejected() == {}


@pytest.mark.parametrize(("a", "others"), [(0.09, 0.005), (0.13, 0.04)])
def test_what_nobody_notices_is_not_far(a: float, others: float) -> None:
    mesh = Mesh()
    mesh.rounds(20, a=a, b=others, c=others)

    assert mesh.ejected() == {}


def test_long_prompts_are_compared_with_long_prompts() -> None:
    mesh = Mesh()
    for _ in range(20):
        mesh.answers(A, SLOW_S, tokens=8000)
        mesh.answers(B, FAST_S)
        mesh.answers(C, FAST_S)
    assert mesh.ejected() == {}

    for _ in range(IN_A_ROW):
        mesh.answers(B, FAST_S, tokens=7000)
        mesh.answers(C, FAST_S, tokens=7000)
        mesh.answers(A, SLOW_S, tokens=7000)
    assert mesh.ejected() == {A: SLOW}


def test_of_two_nobody_can_say_which_is_the_odd_one() -> None:
    mesh = Mesh(A, B)
    mesh.rounds(50, a=SLOW_S)
    mesh.fails(A, 50)

    assert mesh.ejected() == {}


def test_a_peer_that_has_said_little_is_no_measure() -> None:
    mesh = Mesh()
    for _ in range(LEAST_FIRSTS - 1):
        mesh.answers(C)
    for _ in range(20):
        mesh.answers(A, SLOW_S)
        mesh.answers(B)

    assert mesh.ejected() == {}


def test_the_late_word_of_a_time_when_all_were_slow_is_compared_with_that_time() -> None:
    mesh = Mesh()
    began_s = mesh.now_s
    for _ in range(IN_A_ROW):
        mesh.answers(B, SLOW_S)
        mesh.answers(C, SLOW_S)
    ended_s = mesh.now_s
    for _ in range(2 * IN_A_ROW):
        mesh.answers(B)
        mesh.answers(C)
    said = Answer(A, failed=False, read_tokens=10, first_token_s=SLOW_S)
    for at in range(IN_A_ROW):
        then_s = began_s + (ended_s - began_s) * at / IN_A_ROW
        mesh.outliers.learn(said, pool=POOL, began_s=then_s, now_s=mesh.now_s)

    assert mesh.ejected() == {}


def test_what_took_minutes_to_gather_says_nothing_of_now() -> None:
    mesh = Mesh()
    for _ in range(10):
        mesh.rounds(1, a=SLOW_S)
        mesh.now_s += 20.0

    assert mesh.told == []


def test_errors_in_a_row_eject_it() -> None:
    mesh = Mesh()
    mesh.fails(A, IN_A_ROW - 1)
    mesh.answers(A)
    mesh.fails(A, IN_A_ROW - 1)
    assert mesh.ejected() == {}
    mesh.fails(A, 1)

    assert mesh.ejected() == {A: ERRORS}


def test_errors_that_most_have_are_the_requests_fault() -> None:
    mesh = Mesh(*"abcdefghi")
    for each in mesh.addresses:
        mesh.fails(each)
    assert [*mesh.ejected()] == ["a", "b", "c"], "no more than a third"
    mesh.now_s += 2 * EJECTED_S

    mesh.fails("d")
    assert mesh.ejected() == {}
    for each in "efghi":
        mesh.answers(each)
    mesh.fails("d")
    assert mesh.ejected() == {"d": ERRORS}


def test_it_comes_back_and_stays_away_for_longer_each_time() -> None:
    mesh = Mesh()
    for times in (1, 2, 4):
        mesh.rounds(IN_A_ROW + 1, a=SLOW_S)
        out_s = mesh.now_s
        assert mesh.ejected() == {A: SLOW}
        mesh.now_s = out_s + times * EJECTED_S - 1.0
        assert mesh.ejected() == {A: SLOW}
        mesh.now_s = out_s + times * EJECTED_S + 0.1
        assert mesh.ejected() == {}
        mesh.outliers.sweep(mesh.now_s)

    assert mesh.told == [(A, SLOW), (A, "")] * 3


def test_no_ejection_lasts_longer_than_the_longest() -> None:
    mesh = Mesh()
    for _ in range(12):
        mesh.rounds(IN_A_ROW + 1, a=SLOW_S)
        assert mesh.ejected() == {A: SLOW}
        mesh.now_s += EJECTED_MOST_S
        assert mesh.ejected() == {}


def test_who_behaves_for_long_is_forgiven() -> None:
    mesh = Mesh()
    for _ in range(3):
        mesh.rounds(IN_A_ROW + 1, a=SLOW_S)
        mesh.now_s += EJECTED_S * 4
    mesh.now_s += FORGIVEN_AFTER_S
    mesh.rounds(IN_A_ROW + 1, a=SLOW_S)
    assert mesh.ejected() == {A: SLOW}
    mesh.now_s += EJECTED_S

    assert mesh.ejected() == {}


def test_the_late_word_of_what_began_before_teaches_nothing() -> None:
    mesh = Mesh()
    mesh.rounds(IN_A_ROW, a=SLOW_S)
    began_s = mesh.now_s
    mesh.now_s += 2 * EJECTED_S
    mesh.outliers.sweep(mesh.now_s)
    for _ in range(2 * IN_A_ROW):
        said = Answer(A, failed=False, read_tokens=10, first_token_s=SLOW_S)
        mesh.outliers.learn(said, pool=POOL, began_s=began_s, now_s=mesh.now_s)

    assert mesh.ejected() == {}


def test_a_process_that_was_started_again_begins_anew() -> None:
    mesh = Mesh()
    mesh.rounds(IN_A_ROW + 1, a=SLOW_S)
    mesh.outliers.restarted(A)

    assert mesh.ejected() == {}
    assert mesh.told == [(A, SLOW), (A, "")]


@settings(deadline=None)  # a busy machine is no failure
@given(
    st.integers(1, 9),
    st.lists(
        st.tuples(st.integers(0, 8), st.sampled_from([0.1, 0.3, 3.0, 9.0]), st.booleans()),
        max_size=300,
    ),
)
def test_never_more_than_a_third_and_never_the_last(
    size: int, events: list[tuple[int, float, bool]]
) -> None:
    mesh = Mesh(*(str(number) for number in range(size)))
    for which, first_s, failed in events:
        mesh.answers(str(which % size), first_s, failed=failed)
        assert len(mesh.ejected()) <= most_ejected(size)
        assert 3 * len(mesh.ejected()) <= size


@settings(deadline=None)  # a busy machine is no failure
@given(
    st.integers(3, 6),
    st.lists(st.tuples(st.integers(0, 5), st.floats(1.0, 2.9)), min_size=30, max_size=300),
    st.permutations([FAST_S, SLOW_S]),
    st.integers(0, 300),
)
def test_uniform_slowness_ejects_nobody(
    size: int, events: list[tuple[int, float]], speeds_s: list[float], changes_at: int
) -> None:
    """All alike but for noise, and at some moment all get slower, or faster, at once."""
    before_s, after_s = speeds_s
    mesh = Mesh(*(str(number) for number in range(size)))
    for at, (which, noise) in enumerate(events):
        mesh.answers(str(which % size), noise * (before_s if at < changes_at else after_s))

    assert mesh.ejected() == {}


@settings(deadline=None)
@given(st.integers(3, 9), st.integers(0, 2**30))
def test_the_only_slow_one_is_found_and_a_recovered_one_stays(size: int, ejections: int) -> None:
    mesh = Mesh(*(str(number) for number in range(size)))
    for _ in range(ejections % 5 + 1):
        mesh.rounds(IN_A_ROW + 1, a=SLOW_S)
        assert mesh.ejected() == {"0": SLOW}
        mesh.now_s += EJECTED_MOST_S
    mesh.rounds(3 * IN_A_ROW)

    assert mesh.ejected() == {}


def test_only_the_endpoint_that_answered_tells_and_only_when_since_when_is_known() -> None:
    read: dict[str, Any] = {"usage": Usage(100, 30, 5), "first_token_s": 0.5, "duration_s": 1.0}
    waited = {"queue_wait_s": 0.2}

    assert answer([A, B], ended(endpoint=A, **read), **waited) == Answer(
        A, failed=False, read_tokens=70, first_token_s=0.3
    )
    won = answer([A, B], ended(endpoint=A, attempts=2, **read), **waited)
    assert won is not None
    assert won.first_token_s == pytest.approx(0.3), "the hedge came too late"
    lost = answer([A, B], ended(endpoint=B, attempts=2, **read), **waited)
    assert lost is not None
    assert (lost.address, lost.first_token_s) == (B, None)


def test_who_was_never_reached_says_nothing_and_who_fails_says_so() -> None:
    def said(**changes: Any) -> Answer | None:
        return answer([A], ended(**changes), queue_wait_s=0.0)

    assert said(usage=None, grpc_code=Code.UNAVAILABLE) is None
    assert said(usage=None, grpc_code=Code.CANCELLED) is None
    for code in (Code.INTERNAL, Code.UNKNOWN, Code.UNAVAILABLE, Code.DATA_LOSS):
        failure = said(grpc_code=code)
        assert failure is not None
        assert failure.failed
    for code in (Code.OK, Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED, Code.CANCELLED):
        rest = said(grpc_code=code)
        assert rest is not None
        assert not rest.failed


def test_an_ejected_one_still_belongs_to_the_pool() -> None:
    seen = [Candidate(A, "", 0, 0), Candidate(B, SLOW, 0, 0), Candidate(C, "unreachable", 0, 0)]

    assert [*pool(seen)] == [A, B]


def test_ejections_count_only_while_they_are_few_of_those_that_are_left() -> None:
    def order(*left: str, open_: str = "") -> list[str]:
        circuits = Filter(lambda _: {open_: "circuit open"} if open_ else {})
        outliers = Filter(lambda _: {A: SLOW}, most_ejected)
        return [
            *picker(endpoints(*left), None, circuits, outliers).pick(Wanted("small"), 0.0).addresses
        ]

    assert order(A, B, C) == [B, C]
    assert order(A, B) == [A, B]
    assert order(A) == [A]
    assert order(A, B, C, open_=B) == [A, C]
