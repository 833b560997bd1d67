"""`evenflow audit`: what is in the audit log, as a table or as it is, and whether it is whole."""

import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import grpc
import typer
from rich.console import Console

from evenflow.audit_lines import ENTRY_BEGINS
from evenflow.audit_signing import InvalidKey, public_keys
from evenflow.audit_verifying import PUBLIC_KEYS, Broken, Proof, verify_file, verify_folder
from evenflow.cli.exits import REFUSED
from evenflow.cli.tables import table
from evenflow.errors import FailedCall, error_of
from evenflow.policy.v1 import audit_service_pb2 as pb
from evenflow.policy.v1.audit_service_pb2_grpc import AuditServiceStub

CALL_S = 3600.0  # a log of ten million entries takes minutes
_LONG = re.compile(r"spiffe://[^/]*/|/evenflow\.[a-z]+\.v1\.")


def listed(channel: grpc.Channel, wanted: pb.ReadAuditRequest, *, as_json: bool) -> None:
    """A checkpoint is no entry, and not shown."""
    entries = [
        json.loads(line) for line in _lines(channel, wanted) if line.startswith(ENTRY_BEGINS)
    ]
    if as_json:
        typer.echo(json.dumps({"entries": entries}))
        return
    shown = table("number", "time (UTC)", "actor", "action", "subject", "tenant", "outcome")
    for each in entries:
        when = each["time"][5:19].replace("T", " ")
        whom = [_short(each["actor"]), each["action"], _short(each["subject"])]
        shown.add_row(str(each["number"]), when, *whom, each["tenant"] or "-", each["outcome"])
    Console(highlight=False, markup=False).print(shown)


def export(channel: grpc.Channel, wanted: pb.ReadAuditRequest) -> None:
    """Byte for byte, a line each."""
    for line in _lines(channel, wanted):
        sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


def key(channel: grpc.Channel) -> None:
    try:
        said = AuditServiceStub(channel).GetAuditKey(pb.GetAuditKeyRequest(), timeout=CALL_S)
    except grpc.RpcError as error:
        raise error_of(cast(FailedCall, error)) from error
    typer.echo(said.public_key.decode(), nl=False)


def verify(path: Path, key_files: Sequence[Path], *, as_json: bool) -> None:
    """Exits with REFUSED, and the first broken entry, where the log is not as it was written."""
    files = key_files or sorted((path if path.is_dir() else path.parent).glob(PUBLIC_KEYS))
    try:
        keys = public_keys(each.read_bytes() for each in files)
        proof = verify_folder(path, keys) if path.is_dir() else verify_file(path, keys)
    except Broken as error:
        _say_broken(error, as_json=as_json)
        raise typer.Exit(REFUSED) from error
    except InvalidKey as error:
        raise typer.BadParameter(f"--public-key: {error}") from error
    except OSError as error:
        typer.echo(f"evenflow: can't read {error.filename}: {error.strerror}", err=True)
        raise typer.Exit(os.EX_NOINPUT) from error
    if not proof.last:
        _say_broken(Broken(1, "missing", "there is no entry"), as_json=as_json)
        raise typer.Exit(REFUSED)
    typer.echo(json.dumps({"good": True, **asdict(proof)}) if as_json else _said(proof))
    if not key_files:
        typer.echo("The key was found beside it: --public-key names one kept elsewhere.", err=True)


def since_of(text: str | None) -> datetime | None:
    """Raises typer.BadParameter."""
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"must be as in 2026-11-26T16:00:00Z, got {text}") from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def request_of(*, since: str | None, tenant: str, action: str, last: int) -> pb.ReadAuditRequest:
    request = pb.ReadAuditRequest(tenant=tenant, action=action, last=last)
    time = since_of(since)
    if time is not None:
        request.since.FromDatetime(time)
    return request


def _lines(channel: grpc.Channel, wanted: pb.ReadAuditRequest) -> Iterator[bytes]:
    call: Any = AuditServiceStub(channel).ReadAudit(wanted, timeout=CALL_S)
    try:
        for response in call:
            yield from response.lines
    except grpc.RpcError as error:
        raise error_of(cast(FailedCall, error)) from error


def _short(name: str) -> str:
    """Of SPIFFE IDs and RPCs what tells them apart; `--json` has all of them."""
    return _LONG.sub("", name)


def _said(proof: Proof) -> str:
    lines = [f"good: entries {proof.first} to {proof.last}, {proof.checkpoints} checkpoints"]
    lines.append(f"signed up to {proof.signed_to}, at {proof.signed_time}")
    if proof.last > proof.signed_to:
        lines.append(f"{proof.last - proof.signed_to} entries after it are chained, not signed yet")
    lines.append(f"the last one's hash is {proof.digest}")
    return "\n".join(lines)


def _say_broken(error: Broken, *, as_json: bool) -> None:
    if as_json:
        said = {
            "good": False,
            "number": error.number,
            "segment": error.segment,
            "what": error.what,
            "message": error.message,
        }
        typer.echo(json.dumps(said))
        return
    where = f" in {error.segment}" if error.segment else ""
    typer.echo(f"broken: entry {error.number}{where}: {error.what}: {error.message}")
