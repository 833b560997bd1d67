"""What an operator is told of a pick."""

from services.router.core.picking import Candidate
from services.router.core.requests import Request
from services.router.inbound.operator import explained
from tests.unit.router.values import A, decision


def test_a_candidate_is_shown_with_all_that_decided() -> None:
    candidate = Candidate(
        A,
        "",
        700,
        3,
        prefill_tokens=400,
        decode_tokens=300,
        cached_tokens=64,
        kv_missing_tokens=5,
        cost=421.5,
    )
    known = Request(decision(candidates=(candidate,), others={"": 2, "unreachable": 990}))

    shown = explained("r1", known)

    (first,) = shown.candidates
    assert (first.address, first.left_out, first.cost) == (A, "", 421.5)
    tokens = (first.in_flight_tokens, first.in_flight_prefill_tokens, first.in_flight_decode_tokens)
    assert tokens == (700, 400, 300)
    assert (first.expected_cached_tokens, first.kv_missing_tokens) == (64, 5)
    assert dict(shown.other_candidates) == {"": 2, "unreachable": 990}
