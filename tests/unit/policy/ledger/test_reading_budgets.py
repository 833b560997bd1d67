"""Budgets and prices are read as they were meant; every fault is named with its place."""

import pytest

from services.policy.core.tenants import Budget, Price, Unit, Window
from tests.unit.policy.policies import ACME, policy_of
from tests.unit.policy.test_reading import line_of, problems_of

PRICES = """\
prices:
  currency: USD
  models:
    tiny: {prompt: 0.15, output: 0.6}
    "*": {prompt: 1.001, cached_prompt: 0.075, output: 2}
"""


def with_budgets(text: str) -> str:
    return f"{ACME}    budgets: {text}\n"


def test_a_budget_says_what_it_says() -> None:
    (acme,) = policy_of(
        PRICES
        + with_budgets(
            "[{id: monthly, window: month, money: 5.01},"
            " {id: web, window: minute, tokens: 1000, hard: false,"
            " workload: Web.1, low_share: 0.25}]"
        )
    ).tenants

    assert acme.budgets == (
        Budget(id="monthly", unit=Unit.MONEY, window=Window.MONTH, limit=5_010_000_000),
        Budget(
            id="web",
            unit=Unit.TOKENS,
            window=Window.MINUTE,
            limit=1000,
            hard=False,
            workload="Web.1",
            low_share=0.25,
        ),
    )


def test_a_token_costs_whole_billionths() -> None:
    policy = policy_of(PRICES + ACME)

    assert policy.currency == "USD"
    assert policy.prices == (
        Price(model="tiny", prompt=150, cached_prompt=150, output=600),
        Price(model="*", prompt=1001, cached_prompt=75, output=2000),
    )


@pytest.mark.parametrize(
    ("budgets", "field", "message"),
    [
        ("{}", "", "must be a list, got a mapping"),
        ("[{id: a, window: day}]", "[0]", "needs one of tokens and money"),
        ("[{id: a, window: day, tokens: 5, money: 1}]", "[0]", "needs one of tokens and money"),
        ("[{id: a, tokens: 5}]", "[0].window", "is required"),
        ("[{id: a, window: week, tokens: 5}]", "[0].window", "must be one of minute, hour"),
        ("[{id: A, window: day, tokens: 5}]", "[0].id", "must be 1 to 63 lower-case letters"),
        ("[{id: a, window: day, tokens: 0}]", "[0].tokens", "must be from 1 to"),
        ("[{id: a, window: day, tokens: 1.5}]", "[0].tokens", "must be a whole number"),
        ("[{id: a, window: day, money: 0.00}]", "[0].money", "must be at least 0.01"),
        ("[{id: a, window: day, money: 5.001}]", "[0].money", "must have at most 2 decimals"),
        ("[{id: a, window: day, money: '5'}]", "[0].money", "must be a number of at least 0"),
        ("[{id: a, window: day, money: 2000000}]", "[0].money", "must be at most 1000000"),
        ("[{id: a, window: day, tokens: 5, hard: 1}]", "[0].hard", "must be true or false"),
        ("[{id: a, window: day, tokens: 5, low_share: 1.5}]", "[0].low_share", "from 0 to 1"),
        ("[{id: a, window: day, tokens: 5, workload: a/b}]", "[0].workload", "must be 1 to 63"),
        (
            "[{id: a, window: day, tokens: 5}, {id: a, window: hour, tokens: 5}]",
            "[1].id",
            "names another of this tenant",
        ),
        (f"[{', '.join(['{}'] * 17)}]", "", "must have at most 16, got 17"),
    ],
)
def test_a_faulty_budget_is_named(budgets: str, field: str, message: str) -> None:
    text = PRICES + with_budgets(budgets)

    (problem,) = problems_of(text)

    assert problem.field == f"tenants[0].budgets{field}"
    assert message in problem.message
    assert problem.line == line_of(text, "budgets:")


def test_a_budget_in_money_needs_prices() -> None:
    text = with_budgets("[{id: a, window: day, money: 5}]")

    (problem,) = problems_of(text)

    assert (problem.field, problem.line) == (
        "tenants[0].budgets[0].money",
        line_of(text, "budgets:"),
    )
    assert problem.column == text.splitlines()[problem.line - 1].index(" 5}") + 2
    assert problem.message == "needs a price list: prices, at the top level"


@pytest.mark.parametrize(
    ("prices", "field", "message"),
    [
        ("{models: {tiny: {prompt: 1, output: 1}}}", "prices.currency", "is required"),
        ("{currency: usd, models: {tiny: {prompt: 1, output: 1}}}", "prices.currency", "USD"),
        ("{currency: USD}", "prices.models", "is required"),
        ("{currency: USD, models: []}", "prices.models", "must be a mapping"),
        ("{currency: USD, models: {}}", "prices.models", "must name at least one"),
        ("{currency: USD, models: {-a: {prompt: 1, output: 1}}}", "prices.models", "a model name"),
        ("{currency: USD, models: {tiny: {prompt: 1}}}", "prices.models.tiny.output", "required"),
        (
            "{currency: USD, models: {tiny: {prompt: 0.1234, output: 1}}}",
            "prices.models.tiny.prompt",
            "must have at most 3 decimals, got 0.1234",
        ),
        (
            "{currency: USD, models: {tiny: {prompt: 1, cached_prompt: 2, output: 1}}}",
            "prices.models.tiny.cached_prompt",
            "must be at most the price of the prompt",
        ),
        (
            "{currency: USD, models: {a: {prompt: 1, output: 1}, a: {prompt: 1, output: 1}}}",
            "prices.models.a",
            "'a' is listed twice",
        ),
    ],
)
def test_a_faulty_price_is_named(prices: str, field: str, message: str) -> None:
    (problem,) = problems_of(f"prices: {prices}\n{ACME}")

    assert problem.field == field
    assert message in problem.message
    assert problem.line == 1
