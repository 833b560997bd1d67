"""`evenflow budget`: what it prints, and returns to the shell."""

import json
from pathlib import Path

from google.protobuf.timestamp_pb2 import Timestamp
from typer.testing import Result

from evenflow.cli.budgets import budgets_table
from evenflow.policy.v1 import ledger_service_pb2 as pb
from evenflow.policy.v1 import tenant_service_pb2 as tenants
from tests.unit.client.scripted_mesh import Script, scripted_mesh
from tests.unit.client.test_command import evenflow, home_of

MONTHLY = pb.BudgetState(
    tenant="acme",
    budget=tenants.Budget(
        id="monthly",
        unit=tenants.BUDGET_UNIT_MONEY,
        window=tenants.BUDGET_WINDOW_MONTH,
        limit=1_500_000_000_000,
        hard=True,
        low_share=0.1,
    ),
    window_start=Timestamp(seconds=1_793_491_200),
    window_end=Timestamp(seconds=1_796_083_200),
    spent=12_345_678_901,
    held=1,
)
WEB = pb.BudgetState(
    tenant="globex",
    budget=tenants.Budget(
        id="web",
        unit=tenants.BUDGET_UNIT_TOKENS,
        window=tenants.BUDGET_WINDOW_TOTAL,
        limit=1_000,
        workload="web",
    ),
    spent=1_500,
)
SAID = pb.ListBudgetsResponse(budgets=[MONTHLY, WEB], currency="USD")


def listed(folder: Path, *arguments: str, said: pb.ListBudgetsResponse = SAID) -> Result:
    with scripted_mesh(Script(budgets=said), folder, service="policy") as mesh:
        home, port = home_of(mesh, folder), ("--policy-port", str(mesh.port))
        return evenflow("budget", "list", *arguments, *port, home=home)


def test_each_budget_is_a_row() -> None:
    rows = zip(
        *(column.cells for column in budgets_table(SAID.budgets, "USD").columns), strict=True
    )

    assert list(rows) == [
        (
            *("acme", "monthly", "month", "USD", "1,500.00", "12.34", "0.000000001"),
            *("1,487.65", "2026-12-01 00:00"),
        ),
        (
            *("globex", "web", "total, soft", "tokens", "1,000", "1,500", "0"),
            *("-500", "never"),
        ),
    ]


def test_the_table_is_printed(tmp_path: Path) -> None:
    result = listed(tmp_path)

    assert result.exit_code == 0
    assert "monthly" in result.stdout
    assert "globex" in result.stdout


def test_scripts_get_json_in_whole_units(tmp_path: Path) -> None:
    result = listed(tmp_path, "--json")

    said = json.loads(result.stdout)
    assert said["currency"] == "USD"
    assert said["budgets"][0] == {
        "tenant": "acme",
        "id": "monthly",
        "workload": "",
        "window": "month",
        "unit": "money",
        "hard": True,
        "limit": 1_500_000_000_000,
        "spent": 12_345_678_901,
        "held": 1,
        "left": 1_487_654_321_098,
        "low_share": 0.1,
        "began_at": "2026-11-01T00:00:00Z",
        "resets_at": "2026-12-01T00:00:00Z",
    }
    assert said["budgets"][1]["resets_at"] is None


def test_without_a_budget_it_says_so(tmp_path: Path) -> None:
    result = listed(tmp_path, "acme", said=pb.ListBudgetsResponse())

    assert result.stdout == "acme has no budget\n"


def test_a_tenant_and_a_runtime_are_asked_for_by_name(tmp_path: Path) -> None:
    script = Script()

    with scripted_mesh(script, tmp_path, service="policy") as mesh:
        home, port = home_of(mesh, tmp_path), ("--policy-port", str(mesh.port))
        evenflow("budget", "list", "acme", *port, home=home)
        result = evenflow("budget", "forget-runtime", "10.0.0.1:9101", *port, home=home)

    assert script.ledger_asked == ["acme", "10.0.0.1:9101"]
    assert result.stdout == "what 10.0.0.1:9101 has not told is waited for no longer\n"
