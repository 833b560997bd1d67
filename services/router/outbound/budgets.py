"""Reads the budgets and prices that policy streams."""

from collections.abc import Iterable, Mapping

from evenflow.policy.v1 import tenant_service_pb2 as pb
from services.router.core.budgets import Budget, Price, Prices, Unit, Window

_UNITS: Mapping[int, Unit] = {
    pb.BUDGET_UNIT_TOKENS: Unit.TOKENS,
    pb.BUDGET_UNIT_MONEY: Unit.MONEY,
}
_WINDOWS: Mapping[int, Window] = {
    pb.BUDGET_WINDOW_MINUTE: Window.MINUTE,
    pb.BUDGET_WINDOW_HOUR: Window.HOUR,
    pb.BUDGET_WINDOW_DAY: Window.DAY,
    pb.BUDGET_WINDOW_MONTH: Window.MONTH,
    pb.BUDGET_WINDOW_TOTAL: Window.TOTAL,
}


def are_known(told: Iterable[pb.Budget]) -> bool:
    """To leave one of a newer policy out would be to spend what it forbids."""
    return all(each.unit in _UNITS and each.window in _WINDOWS for each in told)


def budgets(tenant: str, told: Iterable[pb.Budget]) -> tuple[Budget, ...]:
    """All of them known."""
    return tuple(
        Budget(
            f"{tenant}/{each.id}",
            _UNITS[each.unit],
            _WINDOWS[each.window],
            each.hard,
            each.workload,
        )
        for each in told
    )


def prices(told: Iterable[pb.Price]) -> Prices:
    return Prices(
        {each.model: Price(each.prompt, each.cached_prompt, each.output) for each in told}
    )
