"""`evenflow policy shadow`: a candidate that routers judge by beside the policy in force."""

import json
from pathlib import Path

import grpc
import typer
from rich.console import Console

from evenflow.cli.policy import CALL_S, content_of
from evenflow.cli.policy_diff import ADMITTED
from evenflow.cli.policy_versions import SHORT, moment
from evenflow.cli.tables import table
from evenflow.policy.v1 import shadow_service_pb2 as pb
from evenflow.policy.v1.shadow_service_pb2_grpc import ShadowServiceStub


def set_(channel: grpc.Channel, file: Path) -> None:
    said: pb.SetShadowResponse = ShadowServiceStub(channel).SetShadow(
        pb.SetShadowRequest(content=content_of(file)), timeout=CALL_S
    )
    typer.echo(f"candidate: {said.version[:SHORT]}, {said.tenants} tenants")


def clear(channel: grpc.Channel) -> None:
    said: pb.ClearShadowResponse = ShadowServiceStub(channel).ClearShadow(
        pb.ClearShadowRequest(), timeout=CALL_S
    )
    typer.echo(f"cleared: {said.version[:SHORT]}" if said.version else "there was no candidate")


def status(channel: grpc.Channel, *, as_json: bool) -> None:
    said: pb.GetShadowResponse = ShadowServiceStub(channel).GetShadow(
        pb.GetShadowRequest(), timeout=CALL_S
    )
    if as_json:
        typer.echo(_json(said))
    elif said.version:
        _print(said)
    else:
        typer.echo("there is no candidate")


def _print(said: pb.GetShadowResponse) -> None:
    console = Console(highlight=False, markup=False)
    console.print(f"candidate {said.version[:SHORT]}, since {moment(said.since)}, by {said.actor}")
    if said.differences:
        shown = table("tenant", "is", "would be", "requests", "examples")
        for each in said.differences:
            outcome = (each.live or ADMITTED, each.shadow or ADMITTED)
            some = " ".join(each.examples)
            shown.add_row(each.tenant or "-", *outcome, str(each.requests), some)
        console.print(shown)
    console.print(
        f"{said.judged} requests judged by {said.routers} routers,"
        f" {said.different} would be decided otherwise"
    )
    if said.failed:
        console.print(f"{said.failed} could not be judged: see the routers' logs")


def _json(said: pb.GetShadowResponse) -> str:
    return json.dumps(
        {
            "version": said.version,
            "since": said.since.ToJsonString() if said.version else "",
            "actor": said.actor,
            "routers": said.routers,
            "judged": said.judged,
            "different": said.different,
            "failed": said.failed,
            "differences": [
                {
                    "tenant": each.tenant,
                    "live": each.live or ADMITTED,
                    "shadow": each.shadow or ADMITTED,
                    "requests": each.requests,
                    "examples": list(each.examples),
                }
                for each in said.differences
            ],
        }
    )
