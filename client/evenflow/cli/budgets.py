"""`evenflow budget`: what tenants may spend, have spent, and what is held for them."""

import json
from collections.abc import Iterable
from typing import Any, cast

import grpc
import typer
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.table import Table

from evenflow.cli.tables import table
from evenflow.errors import FailedCall, error_of
from evenflow.policy.v1 import ledger_service_pb2 as pb
from evenflow.policy.v1 import tenant_service_pb2 as tenants
from evenflow.policy.v1.ledger_service_pb2_grpc import LedgerServiceStub

CALL_S = 20.0
_BILLIONTHS = 1_000_000_000
_SMALL = _BILLIONTHS // 100  # less than that is shown in full
_SHOWN_DECIMALS = 2


def list_budgets(channel: grpc.Channel, tenant: str, *, as_json: bool) -> None:
    """`tenant` empty: of all."""
    try:
        said: pb.ListBudgetsResponse = LedgerServiceStub(channel).ListBudgets(
            pb.ListBudgetsRequest(tenant=tenant), timeout=CALL_S
        )
    except grpc.RpcError as error:
        raise error_of(cast(FailedCall, error)) from error
    if as_json:
        facts = {"currency": said.currency, "budgets": [_facts(each) for each in said.budgets]}
        typer.echo(json.dumps(facts))
    elif said.budgets:
        Console(highlight=False, markup=False).print(budgets_table(said.budgets, said.currency))
    else:
        typer.echo(f"{tenant} has no budget" if tenant else "no tenant has a budget")


def forget_runtime(channel: grpc.Channel, endpoint: str) -> None:
    try:
        LedgerServiceStub(channel).ForgetRuntime(
            pb.ForgetRuntimeRequest(endpoint=endpoint), timeout=CALL_S
        )
    except grpc.RpcError as error:
        raise error_of(cast(FailedCall, error)) from error
    typer.echo(f"what {endpoint} has not told is waited for no longer")


def budgets_table(known: Iterable[pb.BudgetState], currency: str) -> Table:
    shown = table(
        *("tenant", "budget", "window", "unit", "limit", "spent", "held", "left", "resets")
    )
    shown.padding = (0, 1, 0, 0)  # nine columns in 80
    shown.columns[-1].min_width = len("2026-12-01")
    for name in ("budget", "limit", "spent", "held", "left"):
        column = next(each for each in shown.columns if each.header == name)
        column.no_wrap = True
    for each in known:
        facts = _facts(each)
        unit = facts["unit"]
        amounts = (facts[name] for name in ("limit", "spent", "held", "left"))
        shown.add_row(
            facts["tenant"],
            facts["id"],
            facts["window"] + ("" if facts["hard"] else ", soft"),
            currency if unit == "money" else unit,
            *(_amount(units, unit) for units in amounts),
            (facts["resets_at"] or "never").removesuffix(":00Z").replace("T", " "),
        )
    return shown


def _facts(state: pb.BudgetState) -> dict[str, Any]:
    """Amounts in the budget's unit; of money, billionths."""
    budget = state.budget
    return {
        "tenant": state.tenant,
        "id": budget.id,
        "workload": budget.workload,
        "window": _name(tenants.BudgetWindow.Name(budget.window), "BUDGET_WINDOW_"),
        "unit": _name(tenants.BudgetUnit.Name(budget.unit), "BUDGET_UNIT_"),
        "hard": budget.hard,
        "limit": budget.limit,
        "spent": state.spent,
        "held": state.held,
        "left": budget.limit - state.spent - state.held,
        "low_share": round(budget.low_share, 6),
        "began_at": _time(state, "window_start"),
        "resets_at": _time(state, "window_end"),
    }


def _name(name: str, prefix: str) -> str:
    return name.removeprefix(prefix).lower()


def _time(state: pb.BudgetState, field: str) -> str | None:
    """None: the window is the total."""
    found: Timestamp = getattr(state, field)
    return found.ToJsonString() if state.HasField(cast(Any, field)) else None


def _amount(units: int, unit: str) -> str:
    """Never more exact than it is: what is cut off is cut towards zero."""
    if unit != "money":
        return f"{units:,}"
    sign, units = ("-", -units) if units < 0 else ("", units)
    whole, rest = divmod(units, _BILLIONTHS)
    if 0 < units < _SMALL:
        return f"{sign}0.{f'{rest:09}'.rstrip('0')}"
    return f"{sign}{whole:,}.{f'{rest:09}'[:_SHOWN_DECIMALS]}"
