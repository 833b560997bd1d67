"""Reads what a tenant may spend: its list of budgets."""

import re
from collections.abc import Mapping

from services.policy.core import fields
from services.policy.core.fields import Notes
from services.policy.core.nodes import Node, Scalar, kind_of
from services.policy.core.prices import BILLIONTHS, amount
from services.policy.core.tenants import Budget, Unit, Window

_REQUIRED = ("id", "window")
_OPTIONAL = ("tokens", "money", "hard", "workload", "low_share")
_MOST_BUDGETS = 16  # each request counts in all of them
_MOST_TOKENS = 1_000_000_000_000_000
_MOST_MONEY = 1_000_000  # a million tokens at the highest price; sums stay within 63 bits
_CENTS = 2
_LOW_SHARE = 0.1
_SHARE = re.compile(r"0|1|[01]?\.[0-9]{1,6}")
_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_ID_EXPECTED = "1 to 63 lower-case letters, digits and '-'"
_WORKLOAD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,62}")
_WORKLOAD_EXPECTED = "1 to 63 letters, digits, '.', '_' and '-'"
_WINDOWS = {each.value: each for each in Window}


def read_budgets(node: Node | None, at: str, notes: Notes, *, priced: bool) -> tuple[Budget, ...]:
    """`priced`: the file has a price list, which budgets in money need."""
    if node is None:
        return ()
    items = fields.items(node, at, notes)
    if len(items) > _MOST_BUDGETS:
        notes.add(node, at, f"must have at most {_MOST_BUDGETS}, got {len(items)}")
        return ()
    found: dict[str, Budget] = {}
    for index, item in enumerate(items):
        budget = _budget(item, f"{at}[{index}]", notes, priced=priced)
        if budget is not None and budget.id in found:
            notes.add(item, f"{at}[{index}].id", f"{budget.id!r} names another of this tenant")
        elif budget is not None:
            found[budget.id] = budget
    return tuple(found.values())


def _budget(node: Node, at: str, notes: Notes, *, priced: bool) -> Budget | None:
    """None only where a problem was noted."""
    found = fields.entries(node, at, notes, required=_REQUIRED, optional=_OPTIONAL)
    name = fields.text(found.get("id"), f"{at}.id", notes, pattern=_ID, expected=_ID_EXPECTED)
    window = _window(found.get("window"), f"{at}.window", notes)
    unit, limit = _limit(found, node, at, notes)
    if unit is Unit.MONEY and not priced:
        notes.add(found["money"], f"{at}.money", "needs a price list: prices, at the top level")
    workload = fields.text(
        found.get("workload"),
        f"{at}.workload",
        notes,
        pattern=_WORKLOAD,
        expected=_WORKLOAD_EXPECTED,
    )
    hard = "hard" not in found or fields.flag(found["hard"], f"{at}.hard", notes)
    low_share = _share(found.get("low_share"), f"{at}.low_share", notes)
    if name is None or window is None:
        return None
    return Budget(
        id=name,
        unit=unit,
        window=window,
        limit=limit,
        hard=hard,
        workload=workload or "",
        low_share=low_share,
    )


def _window(node: Node | None, at: str, notes: Notes) -> Window | None:
    if node is None:
        return None
    window = _WINDOWS.get(node.text) if isinstance(node, Scalar) else None
    if window is None:
        notes.add(node, at, f"must be one of {', '.join(_WINDOWS)}, got {kind_of(node)}")
    return window


def _limit(found: Mapping[str, Node], node: Node, at: str, notes: Notes) -> tuple[Unit, int]:
    tokens, money = found.get("tokens"), found.get("money")
    if found and (tokens is None) is (money is None):
        notes.add(node, at, "needs one of tokens and money")
    if money is None:
        place = f"{at}.tokens"
        return Unit.TOKENS, fields.whole(tokens, place, notes, between=(1, _MOST_TOKENS))
    cents = amount(money, f"{at}.money", notes, decimals=_CENTS, most=_MOST_MONEY)
    if isinstance(money, Scalar) and money.text.strip("0.") == "":
        notes.add(money, f"{at}.money", f"must be at least 0.01, got {kind_of(money)}")
    return Unit.MONEY, cents * BILLIONTHS // 10**_CENTS


def _share(node: Node | None, at: str, notes: Notes) -> float:
    if node is None:
        return _LOW_SHARE
    text = node.text if isinstance(node, Scalar) and not node.quoted else ""
    if not _SHARE.fullmatch(text) or float(text) > 1:
        notes.add(node, at, f"must be a number from 0 to 1, got {kind_of(node)}")
        return _LOW_SHARE
    return float(text)
