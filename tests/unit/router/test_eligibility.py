"""What is worked out once is kept, and no more of it than is needed."""

from services.router.core.eligibility import Eligibility
from tests.unit.router.values import A, B, endpoints


def test_what_was_worked_out_is_kept_while_nothing_changes() -> None:
    known = endpoints(A, B)
    eligibility = Eligibility(known)
    before = eligibility.of("small", "")

    assert eligibility.of("small", "") is before
    known.drain(A)
    assert eligibility.of("small", "").addresses == (B,)


def test_names_that_callers_make_up_fill_no_memory() -> None:
    eligibility = Eligibility(endpoints(A, B))
    first = eligibility.of("made up 0", "")
    for number in range(2_000):
        eligibility.of(f"made up {number}", "")

    assert eligibility.of("made up 0", "") is not first
