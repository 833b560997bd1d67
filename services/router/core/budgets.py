"""What a request counts against and the most that it may cost: budgets, their windows, prices.

Whole units throughout: tokens, or billionths of the price list's currency.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from services.router.core.value import value

Account = tuple[str, int]
"""A budget's name, "<tenant>/<id>", and when its window began, in seconds since 1970; 0: total."""

_ANY = "*"
_EACH_S = {"minute": 60, "hour": 3600, "day": 86_400}
# What more is set aside for an estimated prompt. One that is longer yet takes from what its output
# has, and the estimates learn (estimates.py).
_MORE_SHARE, _MORE_TOKENS = 0.5, 64


class Unit(Enum):
    TOKENS = "tokens"
    MONEY = "money"


class Window(Enum):
    """What a budget begins anew with, in UTC."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    MONTH = "month"
    TOTAL = "total"


@dataclass(frozen=True, slots=True)
class Budget:
    name: str  # "<tenant>/<id>"
    unit: Unit
    window: Window
    hard: bool = True
    workload: str = ""  # that alone counts; empty: all of the tenant's


@dataclass(frozen=True, slots=True)
class Price:
    """Units for a token."""

    prompt: int
    cached_prompt: int
    output: int


A_TOKEN = Price(1, 1, 1)


class Prices:
    """By model; those of "*" are for models that have none of their own."""

    def __init__(self, by_model: Mapping[str, Price]) -> None:
        self._by_model = by_model

    def of(self, model: str) -> Price | None:
        return self._by_model.get(model) or self._by_model.get(_ANY)


NO_PRICES = Prices({})


class NotPriced(LookupError):
    """A budget counts money, and nobody has said what the model costs."""


@value
class Size:
    """Of one attempt, at most."""

    prompt_tokens: int
    output_tokens: int


@value
class Charge:
    """What one attempt may cost one account at most, and by which rates."""

    account: Account
    reserved: int
    rates: Price
    hard: bool


def at_most(prompt_tokens: int, output_tokens: int, *, exact: bool) -> Size:
    """`exact`: the prompt's tokens were counted."""
    more = 0 if exact else int(prompt_tokens * _MORE_SHARE) + _MORE_TOKENS
    return Size(prompt_tokens + more, output_tokens)


def charged(
    budgets: Sequence[Budget], workload: str, size: Size, *, price: Price | None, unix_s: float
) -> tuple[Charge, ...]:
    """In the order of `budgets`. `price`: of the model that answers.

    Raises:
        NotPriced: it has none, and needs one.
    """
    return tuple(
        _charge(each, price, size, unix_s)
        for each in budgets
        if not each.workload or each.workload == workload
    )


def window_start(window: Window, unix_s: float) -> int:
    if window is Window.TOTAL:
        return 0
    if window is Window.MONTH:
        return _month(unix_s, later=0)
    return int(unix_s) - int(unix_s) % _EACH_S[window.value]


def window_end(window: Window, unix_s: float) -> int | None:
    """None: it has none."""
    if window is Window.TOTAL:
        return None
    if window is Window.MONTH:
        return _month(unix_s, later=1)
    return window_start(window, unix_s) + _EACH_S[window.value]


def _charge(budget: Budget, price: Price | None, size: Size, unix_s: float) -> Charge:
    rates = A_TOKEN if budget.unit is Unit.TOKENS else price
    if rates is None:
        raise NotPriced(budget.name)
    reserved = size.prompt_tokens * max(rates.prompt, rates.cached_prompt)
    reserved += size.output_tokens * rates.output
    account = (budget.name, window_start(budget.window, unix_s))
    return Charge(account, reserved, rates, budget.hard)


def _month(unix_s: float, *, later: int) -> int:
    now = datetime.fromtimestamp(unix_s, UTC)
    months = now.year * 12 + now.month - 1 + later
    return int(datetime(months // 12, months % 12 + 1, 1, tzinfo=UTC).timestamp())
