import random

from hypothesis import given
from hypothesis import strategies as st

from services.router.core.picking import Candidate, ranked, usable

candidates = st.lists(
    st.builds(
        Candidate,
        address=st.integers(1, 9).map(lambda n: f"10.0.0.{n}:8000"),
        left_out=st.sampled_from(["", "", "draining"]),
        tokens=st.integers(0, 2),  # few values, so that ties are common
        requests=st.integers(0, 2),
    ),
    unique_by=lambda each: each.address,
)


def test_prefers_fewer_tokens_to_fewer_requests() -> None:
    long = Candidate("a:1", "", tokens=900, requests=1)
    short = Candidate("b:1", "", tokens=30, requests=3)

    assert usable(ranked([long, short])) == ["b:1", "a:1"]


def test_ties_go_to_fewer_requests_then_to_the_lower_address() -> None:
    tied = [Candidate("c:1", "", 5, 1), Candidate("b:1", "", 5, 1), Candidate("a:1", "", 5, 2)]

    assert usable(ranked(tied)) == ["b:1", "c:1", "a:1"]


@given(candidates, st.randoms(use_true_random=False))
def test_a_pick_does_not_depend_on_the_order_of_the_candidates(
    given_order: list[Candidate], shuffler: random.Random
) -> None:
    shuffled = given_order[:]
    shuffler.shuffle(shuffled)

    assert ranked(given_order) == ranked(shuffled)


@given(candidates)
def test_a_pick_holds_all_that_can_be_used_and_nothing_else(given_order: list[Candidate]) -> None:
    picked = usable(ranked(given_order))

    assert sorted(picked) == sorted(each.address for each in given_order if not each.left_out)


@given(candidates)
def test_what_is_left_out_comes_last(given_order: list[Candidate]) -> None:
    left_out = [bool(each.left_out) for each in ranked(given_order)]

    assert left_out == sorted(left_out)
