"""What would have come of the requests of the last day under another policy, counted."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from services.policy.core.verdicts import Judge, RecordedDecision

MOST_EXAMPLES = 5
MOST_KINDS = 1_000  # of differences that are told apart; a tenant each makes many
_LOOK_EVERY = 1_000  # decisions between two looks at the clock


class Decisions(Protocol):
    """What routers decided, as far as it was recorded."""

    def since(self, unix_s: float) -> Iterator[RecordedDecision]:
        """The oldest first. Blocks, so it is read in a thread."""


@dataclass(frozen=True, slots=True)
class Kind:
    old: str  # what came of them; empty: they were admitted
    new: str
    tenant: str  # empty: nobody's, or of one of more tenants than are told apart


@dataclass(slots=True)
class Outcome:
    """Of a dry run, so far."""

    judged: int = 0
    since_unix_s: float = 0.0  # when the oldest that was judged came
    cut_short: bool = False  # time was up before the latest were judged
    otherwise: Counter[Kind] = field(default_factory=Counter)
    examples: dict[Kind, list[str]] = field(default_factory=dict)

    @property
    def different(self) -> int:
        return self.otherwise.total()

    def most_frequent(self) -> Sequence[tuple[Kind, int]]:
        return self.otherwise.most_common(MOST_KINDS)

    def note(self, decision: RecordedDecision, new: str) -> None:
        kind = Kind(decision.outcome, new, decision.tenant)
        if kind not in self.otherwise and len(self.otherwise) >= MOST_KINDS:
            kind = Kind(decision.outcome, new, "")
        self.otherwise[kind] += 1
        examples = self.examples.setdefault(kind, [])
        if len(examples) < MOST_EXAMPLES:
            examples.append(decision.request_id)


def dry_run(
    judge: Judge, decisions: Iterator[RecordedDecision], *, time_is_up: Callable[[], bool]
) -> Outcome:
    """Bounded in time, and in memory by the kinds of differences."""
    outcome = Outcome()
    for decision in decisions:
        outcome.judged += 1
        outcome.since_unix_s = outcome.since_unix_s or decision.unix_s
        new = judge.would(decision)
        if new != decision.outcome:
            outcome.note(decision, new)
        if outcome.judged % _LOOK_EVERY == 0 and time_is_up():
            outcome.cut_short = True
            break
    return outcome
