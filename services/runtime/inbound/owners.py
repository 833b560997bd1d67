"""Whose request this is: what the gateway's metadata says about it, and nobody else's.

The certificate check lets only the gateway in, and the gateway lets no client set these keys.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import grpc

from services.runtime.core.degrading import AS_ASKED, Degradation, Orders
from services.runtime.core.engine import InvalidInput
from services.runtime.core.limits import TenantLimits
from services.runtime.core.reservations import Reservation
from services.runtime.inbound import reserved

_PREFIX = "x-evenflow-"
_ATTEMPT = "x-envoy-attempt-count"
_MOST_DIGITS = 19  # of 64 bits


@dataclass(frozen=True, slots=True)
class Owner:
    request_id: str
    tenant: str
    workload: str
    workload_class: str
    priority: int  # lower runs first
    cache_salt: str
    limits: TenantLimits
    pool: str  # the boundary that the tenant stays in; empty: the shared pool
    attempt: int = 1  # of the gateway's at this request: above 1, a retry or a hedge
    orders: Orders = AS_ASKED
    cache_key: str = ""  # under which a router wants to keep the answer; empty: none does
    resumable: bool = False  # its stream may be carried on should it break
    reservation: Reservation | None = None  # None: no budget counts it

    @classmethod
    def of(cls, context: grpc.aio.ServicerContext) -> "Owner":
        """Raises InvalidInput naming the first key that is missing or wrong."""
        said = {
            key.removeprefix(_PREFIX): value
            for key, value in context.invocation_metadata() or ()
            if key.startswith((_PREFIX, _ATTEMPT)) and isinstance(value, str)
        }
        return cls(
            request_id=_text(said, "request-id"),
            tenant=_text(said, "tenant"),
            workload=_text(said, "workload"),
            workload_class=_text(said, "workload-class"),
            priority=_number(said, "priority"),
            cache_salt=_text(said, "cache-salt"),
            limits=TenantLimits(
                context_tokens=_number(said, "max-context-tokens"),
                output_tokens=_number(said, "max-output-tokens"),
            ),
            pool=said.get("pool", ""),
            attempt=_number(said, _ATTEMPT) if _ATTEMPT in said else 1,
            orders=_orders(said) if "degradations" in said else AS_ASKED,
            cache_key=said.get("cache-key", ""),
            resumable=said.get("resumable") == "1",
            reservation=reserved.reservation(said),
        )


def _orders(said: Mapping[str, str]) -> Orders:
    pairs = [each.partition("=") for each in said["degradations"].split(",")]
    return Orders(
        degradations=tuple(Degradation(rung, reason) for rung, _, reason in pairs if reason),
        model=said.get("model", ""),
        output_tokens=_number(said, "output-cap") if "output-cap" in said else 0,
        prompt_tokens=_number(said, "context-cap") if "context-cap" in said else 0,
    )


def _text(said: Mapping[str, str], key: str) -> str:
    value = said.get(key, "")
    if not value:
        raise InvalidInput(_PREFIX + key, "must be set by the gateway")
    return value


def _number(said: Mapping[str, str], key: str) -> int:
    value = _text(said, key)
    if len(value) > _MOST_DIGITS or not value.isascii() or not value.isdigit():
        raise InvalidInput(_PREFIX + key, f"must be a whole number, got {value[:20]!a}")
    return int(value)
