"""`evenflow keys`: API keys, for callers without a certificate. A secret goes to standard output
alone, for scripts to capture; what is said about it goes to standard error."""

import json
from collections.abc import Callable
from typing import Any, TypeVar, cast

import grpc
import typer
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.table import Table

from evenflow.cli.tables import table
from evenflow.errors import FailedCall, error_of
from evenflow.policy.v1 import key_service_pb2 as pb
from evenflow.policy.v1.key_service_pb2_grpc import KeyServiceStub

CALL_S = 20.0
_ONCE = "Its secret is shown this once."

A = TypeVar("A")


def create(channel: grpc.Channel, request: pb.CreateKeyRequest) -> None:
    made: pb.CreateKeyResponse = _call(KeyServiceStub(channel).CreateKey, request)
    typer.echo(f"{_named(made.key)}, {_end(made.key)}. {_ONCE}", err=True)
    typer.echo(made.secret)


def rotate(channel: grpc.Channel, request: pb.RotateKeyRequest) -> None:
    made: pb.RotateKeyResponse = _call(KeyServiceStub(channel).RotateKey, request)
    typer.echo(f"{_named(made.key)}, {_end(made.key)}. {_ONCE}", err=True)
    until = _when(made.key, "former_until")
    said = f"is good until {until} UTC" if until else "is good no more"
    typer.echo(f"The secret before {said}.", err=True)
    typer.echo(made.secret)


def revoke(channel: grpc.Channel, tenant: str, id_: str) -> None:
    _call(KeyServiceStub(channel).RevokeKey, pb.RevokeKeyRequest(tenant=tenant, id=id_))
    typer.echo(f"revoked {tenant}/{id_}; routers know within 2 s, its streams end 2 s later")


def list_keys(channel: grpc.Channel, tenant: str, *, as_json: bool) -> None:
    """`tenant` empty: of all."""
    request = pb.ListKeysRequest(tenant=tenant)
    said: pb.ListKeysResponse = _call(KeyServiceStub(channel).ListKeys, request)
    if as_json:
        typer.echo(json.dumps({"keys": [_facts(each) for each in said.keys]}))
    else:
        Console(highlight=False, markup=False).print(_table(said))


def lifetime(wanted: Duration | None) -> dict[str, Duration]:
    """The field, or none of it."""
    return {} if wanted is None else {"lifetime": wanted}


def _table(said: pb.ListKeysResponse) -> Table:
    shown = table("key", "workload", "from", "state", "expires (UTC)", "old until (UTC)")
    for each in said.keys:
        shown.add_row(
            f"{each.tenant}/{each.id}",
            each.workload,
            _source(each),
            _state(each).replace("_", " "),
            _when(each, "expires_at") or "-",
            _when(each, "former_until") or "-",
        )
    return shown


def _facts(key: pb.Key) -> dict[str, str | None]:
    times = ("created_at", "expires_at", "rotated_at", "former_until")
    return {
        "tenant": key.tenant,
        "id": key.id,
        "workload": key.workload,
        "source": _source(key),
        "state": _state(key),
        **{name: _stamp(key, name) for name in times},
    }


def _named(key: pb.Key) -> str:
    return f"{key.tenant}/{key.id}, workload {key.workload}"


def _end(key: pb.Key) -> str:
    until = _when(key, "expires_at")
    return f"good until {until} UTC" if until else "without end"


def _when(key: pb.Key, name: str) -> str:
    """Empty where it is unset."""
    return _at(key, name).ToDatetime().strftime("%Y-%m-%d %H:%M") if key.HasField(name) else ""  # type: ignore[arg-type] # a name that is not literal


def _stamp(key: pb.Key, name: str) -> str | None:
    return _at(key, name).ToJsonString() if key.HasField(name) else None  # type: ignore[arg-type] # likewise


def _at(key: pb.Key, name: str) -> Timestamp:
    return cast(Timestamp, getattr(key, name))


def _source(key: pb.Key) -> str:
    return pb.KeySource.Name(key.source).removeprefix("KEY_SOURCE_").lower()


def _state(key: pb.Key) -> str:
    return pb.KeyState.Name(key.state).removeprefix("KEY_STATE_").lower()


def _call(method: Callable[..., A], request: Any) -> A:
    try:
        return method(request, timeout=CALL_S)
    except grpc.RpcError as error:
        raise error_of(cast(FailedCall, error)) from error
