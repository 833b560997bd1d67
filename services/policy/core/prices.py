"""Reads the price list: what a token of each model costs, in billionths of the currency.

The file has prices for a million tokens, with at most three decimals: so one token costs whole
billionths, and whatever is added up of them is exact.
"""

import re

from services.policy.core import fields
from services.policy.core.fields import Notes
from services.policy.core.nodes import Mapping, Node, Scalar, kind_of
from services.policy.core.tenants import Price

ALL_MODELS = "*"
BILLIONTHS = 1_000_000_000  # of one unit of the currency

_CURRENCY = re.compile(r"[A-Z]{3}")
_CURRENCY_EXPECTED = "three capital letters, as USD"
_MODEL = re.compile(r"\*|[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}")
_AMOUNT = re.compile(r"[0-9]{1,7}(?:\.([0-9]+))?")
_DECIMALS = 3  # of a price for a million tokens
_MOST = 1_000_000  # for a million tokens


def read_prices(node: Node | None, notes: Notes) -> tuple[str, tuple[Price, ...]]:
    """The currency and the prices; "" and none where the file has no price list."""
    if node is None:
        return "", ()
    found = fields.entries(node, "prices", notes, required=("currency", "models"))
    currency = fields.text(
        found.get("currency"),
        "prices.currency",
        notes,
        pattern=_CURRENCY,
        expected=_CURRENCY_EXPECTED,
    )
    return currency or "", _models(found.get("models"), notes)


def _models(node: Node | None, notes: Notes) -> tuple[Price, ...]:
    at = "prices.models"
    if node is None:
        return ()
    if not isinstance(node, Mapping):
        notes.add(node, at, f"must be a mapping, got {kind_of(node)}")
        return ()
    if not node.entries:
        notes.add(node, at, "must name at least one")
    found: dict[str, Price] = {}
    for key, value in node.entries:
        name = key.text if isinstance(key, Scalar) else ""
        if not _MODEL.fullmatch(name):
            notes.add(key, at, f'must be a model name or "*", got {kind_of(key)}')
        elif name in found:
            notes.add(key, f"{at}.{name}", f"{name!r} is listed twice")
        else:
            found[name] = _price(name, value, notes)
    return tuple(found.values())


def _price(model: str, node: Node, notes: Notes) -> Price:
    at = f"prices.models.{model}"
    found = fields.entries(
        node, at, notes, required=("prompt", "output"), optional=("cached_prompt",)
    )
    prompt = _billionths(found.get("prompt"), f"{at}.prompt", notes)
    cached = found.get("cached_prompt")
    least = prompt if cached is None else _billionths(cached, f"{at}.cached_prompt", notes)
    if cached is not None and least > prompt:
        notes.add(cached, f"{at}.cached_prompt", "must be at most the price of the prompt")
    output = _billionths(found.get("output"), f"{at}.output", notes)
    return Price(model=model, prompt=prompt, cached_prompt=least, output=output)


def _billionths(node: Node | None, at: str, notes: Notes) -> int:
    """For one token, of a price for a million."""
    return amount(node, at, notes, decimals=_DECIMALS, most=_MOST)


def amount(node: Node | None, at: str, notes: Notes, *, decimals: int, most: int) -> int:
    """A number from 0 to `most`, in units of its last decimal."""
    if node is None:
        return 0
    matched = _AMOUNT.fullmatch(node.text) if isinstance(node, Scalar) and not node.quoted else None
    if not isinstance(node, Scalar) or matched is None:
        notes.add(node, at, f"must be a number of at least 0, got {kind_of(node)}")
        return 0
    after = matched[1] or ""
    if len(after) > decimals:
        notes.add(node, at, f"must have at most {decimals} decimals, got {node.text}")
        return 0
    units = int(node.text.partition(".")[0] + after.ljust(decimals, "0"))
    if units > most * 10**decimals:
        notes.add(node, at, f"must be at most {most}, got {node.text}")
        return 0
    return units
