"""`evenflow policy versions`, `show`, `rollback`, `follow`: what was in force, and back to it."""

import json
import sys

import grpc
import typer
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console

from evenflow.cli.tables import table
from evenflow.policy.v1 import version_service_pb2 as pb
from evenflow.policy.v1.version_service_pb2_grpc import VersionServiceStub

CALL_S = 60.0  # a policy of 10,000 tenants takes a second
SHORT = 12


def versions(channel: grpc.Channel, *, as_json: bool) -> None:
    said: pb.ListVersionsResponse = VersionServiceStub(channel).ListVersions(
        pb.ListVersionsRequest(), timeout=CALL_S
    )
    if as_json:
        typer.echo(_json(said))
        return
    console = Console(highlight=False, markup=False)
    shown = table("version", "since", "by", "tenants", "bytes")
    for each in said.versions:
        who = each.actor.removeprefix("spiffe://") if each.actor != "policy" else ""
        by = f"{_cause(each.cause)} {who}".strip()
        size = (str(each.tenants), str(each.content_bytes))
        shown.add_row(each.version[:SHORT], moment(each.since), by, *size)
    console.print(shown)
    console.print(_standing(said))


def show(channel: grpc.Channel, version: str) -> None:
    """Byte for byte, so that it can be made the file again."""
    parts = VersionServiceStub(channel).GetVersion(
        pb.GetVersionRequest(version=version), timeout=CALL_S
    )
    for part in parts:
        sys.stdout.buffer.write(part.content)
    sys.stdout.buffer.flush()


def roll_back(channel: grpc.Channel, version: str) -> None:
    said: pb.RollBackResponse = VersionServiceStub(channel).RollBack(
        pb.RollBackRequest(version=version), timeout=CALL_S
    )
    typer.echo(f"in force: {said.version[:SHORT]}, before: {said.before[:SHORT]}")


def follow(channel: grpc.Channel) -> None:
    said: pb.ReleasePinResponse = VersionServiceStub(channel).ReleasePin(
        pb.ReleasePinRequest(), timeout=CALL_S
    )
    typer.echo(f"in force: {said.version[:SHORT]}, the file's, before: {said.before[:SHORT]}")


def moment(instant: Timestamp) -> str:
    return f"{instant.ToDatetime():%Y-%m-%d %H:%M:%S}Z"


def _standing(said: pb.ListVersionsResponse) -> str:
    if not said.HasField("pin"):
        return f"in force: {said.in_force[:SHORT]}, the file's"
    pin = said.pin
    return (
        f"in force: {said.in_force[:SHORT]}, pinned by {pin.actor} at {moment(pin.since)};"
        f" the file says {said.file[:SHORT]} (`evenflow policy follow` puts it into force)"
    )


def _json(said: pb.ListVersionsResponse) -> str:
    pin = said.pin
    pinned = {
        "version": pin.version,
        "file_version": pin.file_version,
        "since": pin.since.ToJsonString(),
        "actor": pin.actor,
    }
    return json.dumps(
        {
            "in_force": said.in_force,
            "file": said.file,
            "pin": pinned if said.HasField("pin") else None,
            "versions": [
                {
                    "version": each.version,
                    "since": each.since.ToJsonString(),
                    "cause": _cause(each.cause).replace(" ", "_"),
                    "actor": each.actor,
                    "tenants": each.tenants,
                    "content_bytes": each.content_bytes,
                }
                for each in said.versions
            ],
        }
    )


def _cause(number: pb.PolicyCause.ValueType) -> str:
    return pb.PolicyCause.Name(number).removeprefix("POLICY_CAUSE_").lower().replace("_", " ")
