"""Budgets in their present windows, as operators see them."""

from collections.abc import Mapping

from evenflow.policy.v1 import ledger_service_pb2 as pb
from services.policy.core import windows
from services.policy.core.booking import Budgets
from services.policy.core.ledger import Account, Tally
from services.policy.core.tenants import Budget, Policy
from services.policy.inbound.ledger_messages import timestamp
from services.policy.inbound.tenants import encode_budget


def budgets_of(policy: Policy) -> Budgets:
    return {f"{tenant.id}/{each.id}": each for tenant in policy.tenants for each in tenant.budgets}


def present(policy: Policy, tenant: str, now_unix_s: float) -> dict[Account, tuple[str, Budget]]:
    """Tenant and budget of each account that is open now. `tenant` empty: of all."""
    return {
        Account(f"{each.id}/{budget.id}", windows.start_unix_s(budget.window, now_unix_s)): (
            each.id,
            budget,
        )
        for each in sorted(policy.tenants, key=lambda known: known.id)
        if tenant in ("", each.id)
        for budget in each.budgets
    }


def state(account: Account, of: tuple[str, Budget], tally: Tally) -> pb.BudgetState:
    tenant, budget = of
    start = account.window_start_unix_s
    end = windows.end_unix_s(budget.window, start)
    return pb.BudgetState(
        tenant=tenant,
        budget=encode_budget(budget),
        window_start=None if end is None else timestamp(start),
        window_end=None if end is None else timestamp(end),
        spent=tally.spent,
        held=tally.held,
    )


def states(
    found: Mapping[Account, tuple[str, Budget]], tallies: Mapping[Account, Tally]
) -> list[pb.BudgetState]:
    return [state(account, of, tallies[account]) for account, of in found.items()]
