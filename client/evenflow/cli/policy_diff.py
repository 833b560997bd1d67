"""`evenflow policy diff`: what a policy would change, and for which of the last day's requests."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import grpc
import typer
from rich.console import Console

from evenflow.cli.policy import CALL_S, content_of
from evenflow.cli.policy_versions import SHORT, moment
from evenflow.cli.tables import table
from evenflow.policy.v1 import policy_service_pb2 as pb
from evenflow.policy.v1.policy_service_pb2_grpc import PolicyServiceStub

ADMITTED = "admitted"
_SIGNS = {
    pb.POLICY_CHANGE_ADDED: "+",
    pb.POLICY_CHANGE_REMOVED: "-",
    pb.POLICY_CHANGE_CHANGED: "~",
}


def diff(channel: grpc.Channel, file: Path, *, as_json: bool) -> None:
    said: pb.DiffPolicyResponse = PolicyServiceStub(channel).DiffPolicy(
        pb.DiffPolicyRequest(content=content_of(file)), timeout=CALL_S
    )
    if as_json:
        typer.echo(_json(said))
        return
    typer.echo("\n".join(_lines(said)))
    if said.HasField("dry_run"):
        _print(said.dry_run)
    else:
        typer.echo("no decisions of the last day are recorded")


def _lines(said: pb.DiffPolicyResponse) -> Iterator[str]:
    yield f"in force: {said.old_version[:SHORT]}, new: {said.new_version[:SHORT]}"
    subject = ""
    for each in said.differences:
        if each.subject != subject:
            subject = each.subject
            yield subject
        yield f"  {_SIGNS.get(each.change, '?')} {each.field}: {_values(each)}"
    if said.more_differences:
        yield f"and {said.more_differences} more"
    if not said.differences:
        yield "no difference"


def _values(each: pb.PolicyDifference) -> str:
    if not each.old and not each.new:
        return "(secret)"
    return " -> ".join(value for value in (each.old, each.new) if value)


def _print(run: pb.DryRun) -> None:
    cut = " (time was up)" if run.cut_short else ""
    console = Console(highlight=False, markup=False)
    console.print(
        f"of {run.judged} requests since {moment(run.since)}{cut},"
        f" {run.different} would have been decided otherwise"
    )
    if run.otherwise:
        shown = table("tenant", "was", "would be", "requests", "examples")
        for each in run.otherwise:
            outcome = (each.old or ADMITTED, each.new or ADMITTED)
            some = " ".join(each.examples)
            shown.add_row(each.tenant or "-", *outcome, str(each.requests), some)
        console.print(shown)


def _json(said: pb.DiffPolicyResponse) -> str:
    run = said.dry_run
    dry_run = {
        "judged": run.judged,
        "different": run.different,
        "since": run.since.ToJsonString(),
        "cut_short": run.cut_short,
        "otherwise": list(_otherwise(run.otherwise)),
    }
    return json.dumps(
        {
            "old_version": said.old_version,
            "new_version": said.new_version,
            "differences": [
                {
                    "change": pb.PolicyChange.Name(each.change)
                    .removeprefix("POLICY_CHANGE_")
                    .lower(),
                    "subject": each.subject,
                    "field": each.field,
                    "old": each.old,
                    "new": each.new,
                }
                for each in said.differences
            ],
            "more_differences": said.more_differences,
            "dry_run": dry_run if said.HasField("dry_run") else None,
        }
    )


def _otherwise(kinds: Iterable[pb.DecidedOtherwise]) -> Iterator[dict[str, object]]:
    for each in kinds:
        yield {
            "tenant": each.tenant,
            "old": each.old or ADMITTED,
            "new": each.new or ADMITTED,
            "requests": each.requests,
            "examples": list(each.examples),
        }
