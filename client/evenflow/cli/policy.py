"""`evenflow policy`: is a policy's file good, before it decides anything."""

import json
import sys
from importlib.resources import files
from pathlib import Path

import grpc
import typer

from evenflow.cli.exits import REFUSED
from evenflow.policy.v1 import policy_service_pb2 as pb
from evenflow.policy.v1.policy_service_pb2_grpc import PolicyServiceStub

CALL_S = 60.0  # a policy of 10,000 tenants takes a second
MOST_BYTES = (16 << 20) - 16  # of a message that policy takes


def check(channel: grpc.Channel, file: Path, *, as_json: bool) -> None:
    """Exits with REFUSED if it can't be used. "-": standard input."""
    name, content = str(file), content_of(file)
    said: pb.CheckPolicyResponse = PolicyServiceStub(channel).CheckPolicy(
        pb.CheckPolicyRequest(content=content), timeout=CALL_S
    )
    typer.echo(_json(name, said) if as_json else _text(name, said))
    if said.problems:
        raise typer.Exit(REFUSED)


def schema() -> str:
    """JSON schema of the file, for editors."""
    return files("evenflow.cli").joinpath("policy.schema.json").read_text(encoding="utf-8")


def content_of(file: Path) -> bytes:
    """Of a policy's file, as much as one message takes. "-": standard input."""
    content = _read(file)
    if len(content) > MOST_BYTES:
        raise typer.BadParameter(f"must be at most {MOST_BYTES} bytes, got {len(content)}")
    return content


def _read(file: Path) -> bytes:
    if str(file) == "-":
        return sys.stdin.buffer.read()
    try:
        return file.read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"can't read {file}: {error.strerror}") from error


def _text(name: str, said: pb.CheckPolicyResponse) -> str:
    """A line for each problem, as compilers write them, so that editors find the place."""
    if not said.problems:
        state = "in force" if said.in_force else "not in force"
        good = f"{name}: good, {said.tenants} tenants, version {said.version[:12]} ({state})"
        return "\n".join((*(_line(name, each, "warning: ") for each in said.warnings), good))
    lines = [_line(name, each) for each in said.problems]
    if said.more_problems:
        lines.append(f"{name}: and {said.more_problems} more")
    return "\n".join(lines)


def _line(name: str, said: pb.PolicyProblem, kind: str = "") -> str:
    field = f"{said.field}: " if said.field else ""
    return f"{name}:{said.line}:{said.column}: {kind}{field}{said.message}"


def _json(name: str, said: pb.CheckPolicyResponse) -> str:
    return json.dumps(
        {
            "file": name,
            "problems": [_facts(each) for each in said.problems],
            "warnings": [_facts(each) for each in said.warnings],
            "more_problems": said.more_problems,
            "version": said.version,
            "tenants": said.tenants,
            "in_force": said.in_force,
        }
    )


def _facts(said: pb.PolicyProblem) -> dict[str, str | int]:
    return {
        "line": said.line,
        "column": said.column,
        "field": said.field,
        "message": said.message,
    }
