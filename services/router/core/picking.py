"""Endpoint picking: filter, score, pick. Pure functions over values.

The score is the tokens in flight: what a request will cost is known by its tokens, not by its
being one request. Ties go to fewer requests, then to the lower address, so that equal inputs give
equal picks whatever their order.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """An endpoint as one request saw it."""

    address: str  # host:port
    left_out: str  # why it can't be used; empty: it can
    tokens: int  # in flight there
    requests: int  # in flight there
    full: bool = False  # it can't start the request now; a retry may go there all the same


def ranked(candidates: Iterable[Candidate]) -> Sequence[Candidate]:
    """Best first, those left out last."""
    return sorted(candidates, key=_rank)


def usable(candidates: Iterable[Candidate]) -> Sequence[str]:
    """Addresses of those that can be used, in the order given."""
    return [candidate.address for candidate in candidates if not candidate.left_out]


def _rank(candidate: Candidate) -> tuple[bool, bool, int, int, str]:
    return (
        bool(candidate.left_out),
        candidate.full,
        candidate.tokens,
        candidate.requests,
        candidate.address,
    )
