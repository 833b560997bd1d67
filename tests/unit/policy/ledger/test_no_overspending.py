"""Whatever is lost, repeated, late or killed, no hard budget is overspent, and in the end the books
have spent just what was used."""

from typing import Any

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests.fakes.ledger_rows import FakeTransactions
from tests.spending import Spending

EXAMPLES = settings(max_examples=100, stateful_step_count=60, deadline=None)


def test_no_hard_budget_is_overspent() -> None:
    machine: Any = lambda: Spending(FakeTransactions())  # noqa: E731 - it takes what makes one
    run_state_machine_as_test(machine, settings=EXAMPLES)
