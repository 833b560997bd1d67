"""Says what a policy would change: its fields, and what would have come of recorded requests."""

from collections.abc import Callable, Sequence

from evenflow.policy.v1 import policy_service_pb2 as pb
from services.policy.core.differences import Change, Difference, differences, text
from services.policy.core.dry_run import Decisions, Outcome, dry_run
from services.policy.core.tenants import Policy
from services.policy.core.verdicts import Judge
from services.policy.inbound.times import timestamp

DAY_S = 86_400
LONGEST_S = 20.0  # of a dry run; a million decisions take a few seconds

_MOST_DIFFERENCES = 10_000
_CHANGES = {
    Change.ADDED: pb.POLICY_CHANGE_ADDED,
    Change.REMOVED: pb.POLICY_CHANGE_REMOVED,
    Change.CHANGED: pb.POLICY_CHANGE_CHANGED,
}


class Diffing:
    """`clock`: monotonic, in seconds."""

    def __init__(
        self,
        decisions: Decisions,
        *,
        now_unix_s: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        self._decisions = decisions
        self._now_unix_s = now_unix_s
        self._clock = clock

    def answer(self, live: Policy, new: Policy) -> pb.DiffPolicyResponse:
        """Blocks for as long as LONGEST_S and a second or two."""
        found = differences(live, new)
        shown = found[:_MOST_DIFFERENCES]
        return pb.DiffPolicyResponse(
            old_version=live.version,
            new_version=new.version,
            differences=[_difference(each) for each in shown],
            more_differences=len(found) - len(shown),
            dry_run=_dry_run(self._run(live, new)),
        )

    def _run(self, live: Policy, new: Policy) -> Outcome:
        until_s = self._clock() + LONGEST_S
        decisions = self._decisions.since(self._now_unix_s() - DAY_S)
        return dry_run(Judge(new, live), decisions, time_is_up=lambda: self._clock() >= until_s)


def _difference(each: Difference) -> pb.PolicyDifference:
    return pb.PolicyDifference(
        change=_CHANGES[each.change],
        subject=each.place.subject,
        field=each.place.field,
        old=text(each.old),
        new=text(each.new),
    )


def _dry_run(outcome: Outcome) -> pb.DryRun | None:
    if not outcome.judged:
        return None
    return pb.DryRun(
        judged=outcome.judged,
        different=outcome.different,
        since=timestamp(outcome.since_unix_s),
        cut_short=outcome.cut_short,
        otherwise=_otherwise(outcome),
    )


def _otherwise(outcome: Outcome) -> Sequence[pb.DecidedOtherwise]:
    return [
        pb.DecidedOtherwise(
            old=kind.old,
            new=kind.new,
            tenant=kind.tenant,
            requests=requests,
            examples=outcome.examples[kind],
        )
        for kind, requests in outcome.most_frequent()
    ]
