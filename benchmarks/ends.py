"""How each request of a load ended, so that nothing is left out: a few ends, and a few numbers."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

import grpc

from evenflow.errors import DeadlineExceeded, EvenflowError, Refused, StreamLost


class End(StrEnum):
    ANSWERED = "answered"
    REFUSED = "refused"  # before the first token, with a reason
    FAILED = "failed"  # after it, with a reason
    CUT_OFF = "cut_off"  # after it, by Envoy, as its runtime died: docs/reasons.md
    LATE = "late"  # the caller's deadline
    LEFT = "left"  # the caller itself
    UNEXPLAINED = "unexplained"


@dataclass(slots=True)
class Ends:
    """`counts` by kind of caller, then by End."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    unexplained: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)  # answers that are not what they should be
    tokens_wrong: int = 0
    resumed: int = 0  # streams that were carried on

    def ended(self, kind: str, end: End, why: str = "") -> None:
        self.counts.setdefault(kind, Counter())[end] += 1
        if end is End.UNEXPLAINED:
            self.unexplained.append(f"{kind}: {why}")
        elif why:
            self.reasons[why] += 1

    def of(self, end: End) -> int:
        return sum(each[end] for each in self.counts.values())

    @property
    def all(self) -> int:
        return sum(each.total() for each in self.counts.values())

    def told(self) -> Mapping[str, object]:
        """As JSON; a Counter is not asdict's to copy."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


def heard(told: Mapping[str, Any]) -> Ends:
    counts = {kind: Counter(each) for kind, each in told["counts"].items()}
    return Ends(**{**told, "counts": counts, "reasons": Counter(told["reasons"])})


def end_of(error: EvenflowError, *, took_s: float, deadline_s: float) -> tuple[End, str]:
    """Of a call that was not answered. A status that gRPC or Envoy made by itself gives no reason;
    only of a stream that had begun does that say enough."""
    if isinstance(error, StreamLost):
        return (End.FAILED, error.reason) if error.reason else (End.CUT_OFF, "")
    if isinstance(error, DeadlineExceeded):
        if error.reason:
            return End.REFUSED if not error.text else End.LATE, error.reason
        if took_s >= deadline_s - _CLOCKS_DIFFER_S:
            return End.LATE, "deadline"
    if isinstance(error, Refused) and error.reason not in _STATUSES:
        return End.REFUSED, error.reason
    return End.UNEXPLAINED, repr(error)


_CLOCKS_DIFFER_S = 0.05
_STATUSES = {each.name for each in grpc.StatusCode}
