"""The ledger's messages, decoded and checked, and its answers."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from google.protobuf.timestamp_pb2 import Timestamp

from evenflow.policy.v1 import ledger_service_pb2 as pb
from services.policy.core.booking import InvalidRequest, Lease
from services.policy.core.ledger import Account, Grant
from services.policy.core.settling import AttemptKey, AttemptUsage, News, Report

_MOST_UNITS = 10**16  # far above any budget; sums of them stay within 63 bits
_LONGEST_NAME = 200
_RESERVATION = re.compile(r".+\.[0-9]+", re.DOTALL)


class _Amount(Protocol):
    @property
    def account(self) -> pb.Account: ...
    @property
    def units(self) -> int: ...


def lease(request: pb.LeaseRequest) -> Lease:
    """Raises InvalidRequest."""
    _check_name(request.router, "router")
    _check(request.sequence >= 1, "sequence", f"must be at least 1, got {request.sequence}")
    _check(request.heard >= 0, "heard", f"must be at least 0, got {request.heard}")
    return Lease(
        router=request.router,
        sequence=request.sequence,
        wants=_amounts(request.wants, "wants", least=1),
        returns=_amounts(request.returns, "returns", least=1),
    )


def report(request: pb.SettleRequest) -> Report:
    """Raises InvalidRequest."""
    _check_name(request.journal, "journal")
    _check_name(request.endpoint, "endpoint")
    _check(request.HasField("told_until"), "told_until", "is required")
    return Report(
        journal=request.journal,
        endpoint=request.endpoint,
        told_until_unix_s=_unix_s(request.told_until),
        attempts=tuple(
            _attempt(each, f"attempts[{index}]") for index, each in enumerate(request.attempts)
        ),
    )


def answer(asked: Lease, grants: Sequence[Grant]) -> pb.LeaseResponse:
    return pb.LeaseResponse(
        sequence=asked.sequence,
        grants=[
            pb.Grant(
                account=_account(account), units=grant.units, scarce=grant.scarce, low=grant.low
            )
            for account, grant in zip(asked.wants, grants, strict=True)
        ],
    )


def told(news: News) -> pb.LeaseResponse:
    until = news.settled_until_unix_s
    return pb.LeaseResponse(
        settlements=[
            pb.Settlement(
                number=each.number,
                reservation=each.key.reservation,
                attempt=each.key.attempt,
                charges=[
                    pb.Charge(account=_account(account), units=units)
                    for account, units in each.charges.items()
                ],
            )
            for each in news.settlements
        ],
        settled_until=None if until is None else timestamp(until),
    )


def timestamp(unix_s: float) -> Timestamp:
    made = Timestamp()
    made.FromMicroseconds(int(unix_s * 1e6))  # down: never later than it is
    return made


def _attempt(usage: pb.AttemptUsage, at: str) -> AttemptUsage:
    named = f"must be a router's name, a dot and a number, got {usage.reservation[:100]!r}"
    _check(bool(_RESERVATION.fullmatch(usage.reservation)), f"{at}.reservation", named)
    _check_name(usage.reservation, f"{at}.reservation")
    for name in ("sequence", "attempt"):
        _check(getattr(usage, name) >= 1, f"{at}.{name}", "must be at least 1")
    for name in ("prompt_tokens", "cached_prompt_tokens", "output_tokens"):
        tokens = getattr(usage, name)
        _check(0 <= tokens <= _MOST_UNITS, f"{at}.{name}", f"must be at least 0, got {tokens}")
    return AttemptUsage(
        sequence=usage.sequence,
        key=AttemptKey(usage.reservation, usage.attempt),
        charges=_amounts(usage.charges, f"{at}.charges", least=0),
        request_id=usage.request_id,
        tenant=usage.tenant,
        workload=usage.workload,
        model=usage.model,
        model_version=usage.model_version,
        prompt_tokens=usage.prompt_tokens,
        cached_prompt_tokens=usage.cached_prompt_tokens,
        output_tokens=usage.output_tokens,
        ended_unix_s=_unix_s(usage.ended_at),
        presumed=usage.presumed,
    )


def _amounts(amounts: Iterable[_Amount], at: str, *, least: int) -> Mapping[Account, int]:
    found: dict[Account, int] = {}
    for index, each in enumerate(amounts):
        place = f"{at}[{index}]"
        account = Account(each.account.budget, each.account.window_start_unix_s)
        _check_name(account.budget, f"{place}.account.budget")
        _check(account not in found, f"{place}.account", "is there twice")
        expected = f"must be from {least} to {_MOST_UNITS}, got {each.units}"
        _check(least <= each.units <= _MOST_UNITS, f"{place}.units", expected)
        found[account] = each.units
    return found


def _account(account: Account) -> pb.Account:
    return pb.Account(budget=account.budget, window_start_unix_s=account.window_start_unix_s)


def _unix_s(stamp: Timestamp) -> float:
    return stamp.seconds + stamp.nanos / 1e9


def _check_name(name: str, field: str) -> None:
    good = 0 < len(name) <= _LONGEST_NAME and name.isprintable()
    _check(good, field, f"must be 1 to {_LONGEST_NAME} characters, all printable")


def _check(good: bool, field: str, message: str) -> None:
    if not good:
        raise InvalidRequest(field, message)
