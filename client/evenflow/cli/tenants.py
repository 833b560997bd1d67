"""`evenflow tenants`: who may do what, as routers are told."""

import json
from collections.abc import Iterable
from typing import Any, cast

import grpc
import typer
from rich.console import Console
from rich.table import Table

from evenflow.cli.tables import table
from evenflow.errors import FailedCall, error_of
from evenflow.inference.v1.workload_class_pb2 import WorkloadClass
from evenflow.policy.v1 import tenant_service_pb2 as pb
from evenflow.policy.v1.tenant_service_pb2_grpc import TenantServiceStub

CALL_S = 20.0
_COUNTS = ("requests_per_minute", "tokens_per_minute", "concurrent_requests")


def tenants(channel: grpc.Channel, *, as_json: bool) -> None:
    said = _snapshot(channel)
    if as_json:
        typer.echo(json.dumps({"version": said.version, "tenants": list(_facts(said.tenants))}))
        return
    console = Console(highlight=False, markup=False)
    console.print(tenants_table(said.tenants))
    limited = [each for each in said.tenants if each.HasField("limits")]
    if limited:
        console.print(limits_table(limited))
    console.print(f"policy version {said.version}")


def tenants_table(known: Iterable[pb.Tenant]) -> Table:
    shown = table("tenant", "models", "classes", "context", "output", "weight", "pool")
    for each in _facts(known):
        shown.add_row(
            each["id"],
            ", ".join(each["models"]),
            ", ".join(each["workload_classes"]),
            str(each["max_context_tokens"] or "-"),
            str(each["max_output_tokens"] or "-"),
            str(each["weight"]),
            each["pool"] or "-",
        )
    return shown


def limits_table(known: Iterable[pb.Tenant]) -> Table:
    shown = table("tenant", "requests/min", "tokens/min", "at once", "KV share")
    for each in _facts(known):
        limits = each["limits"]
        counts = (limits[name] for name in _COUNTS)
        share = f"{limits['kv_share']:.3g}" if limits["kv_share"] else "-"
        shown.add_row(each["id"], *(str(count or "-") for count in counts), share)
    return shown


def _snapshot(channel: grpc.Channel) -> pb.WatchTenantsResponse:
    """The first of the stream has all of them."""
    call: Any = TenantServiceStub(channel).WatchTenants(pb.WatchTenantsRequest(), timeout=CALL_S)
    try:
        return cast(pb.WatchTenantsResponse, next(call))
    except grpc.RpcError as error:
        raise error_of(cast(FailedCall, error)) from error
    finally:
        call.cancel()


def _facts(known: Iterable[pb.Tenant]) -> Iterable[dict[str, Any]]:
    """By name. The default class comes first; of keys, only what they are called."""
    for each in sorted(known, key=lambda tenant: tenant.id):
        default = each.default_workload_class
        classes = [default, *(one for one in each.workload_classes if one != default)]
        yield {
            "id": each.id,
            "spiffe_ids": list(each.spiffe_ids),
            "api_keys": [{"id": key.id, "workload": key.workload} for key in each.api_keys],
            "models": list(each.models),
            "workload_classes": [_class_name(one) for one in classes],
            "max_context_tokens": each.max_context_tokens,
            "max_output_tokens": each.max_output_tokens,
            "weight": each.weight or 1,
            "pool": each.pool,
            "limits": {
                **{name: getattr(each.limits, name) for name in _COUNTS},
                "kv_share": each.limits.kv_share,
            },
        }


def _class_name(number: WorkloadClass.ValueType) -> str:
    return WorkloadClass.Name(number).removeprefix("WORKLOAD_CLASS_").lower()
