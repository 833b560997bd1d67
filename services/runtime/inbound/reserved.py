"""Reads what the router has set aside for a request out of the gateway's metadata."""

import re
from collections.abc import Mapping

from services.runtime.core.engine import InvalidInput
from services.runtime.core.reservations import MOST_UNITS, Account, Reservation

_RESERVATION = "x-evenflow-reservation"  # <router instance>.<n>/<attempts covered>
_CHARGES = "x-evenflow-charges"
_NAMED = re.compile(r"([!-.0-~]{1,180}\.\d{1,19})/(\d{1,9})", re.ASCII)
# <tenant>/<budget>@<window start>=<reserved>:<prompt rate>:<cached>:<output>:<1 hard, 0 soft>
_CHARGE = re.compile(
    r"(?=[^@]{,200}@)([^\s,@=/]+/[^\s,@=]+)@(\d{1,19})=" + r"(\d{1,19}):" * 4 + "([01])", re.ASCII
)
_MOST_ACCOUNTS = 64


def reservation(said: Mapping[str, str]) -> Reservation | None:
    """`said`: the headers without their prefix. None: no budget counts this request.

    Raises InvalidInput naming the header.
    """
    if "reservation" not in said and "charges" not in said:
        return None
    named = _NAMED.fullmatch(said.get("reservation", ""))
    if named is None:
        raise InvalidInput(_RESERVATION, "must be <instance>.<number>/<attempts covered>")
    accounts = [_account(each) for each in said.get("charges", "").split(",", _MOST_ACCOUNTS)]
    if len({(each.budget, each.window_start_unix_s) for each in accounts}) < len(accounts):
        raise InvalidInput(_CHARGES, "must name each account once")
    return Reservation(named[1], int(named[2]), tuple(accounts))


def _account(text: str) -> Account:
    found = _CHARGE.fullmatch(text)
    if found is None:
        wanted = "<tenant>/<budget>@<window start>=<reserved>:<prompt>:<cached>:<output>:<1 or 0>"
        raise InvalidInput(_CHARGES, f"must be {wanted}, got {text[:60]!a}")
    start, reserved, prompt, cached, output = map(int, found.groups()[1:6])
    if max(start, reserved, prompt, cached, output) > MOST_UNITS:
        raise InvalidInput(_CHARGES, f"numbers must be at most {MOST_UNITS}, got {text[:60]!a}")
    return Account(
        budget=found[1],
        window_start_unix_s=start,
        reserved=reserved,
        prompt_rate=prompt,
        cached_prompt_rate=cached,
        output_rate=output,
        hard=found[7] == "1",
    )
