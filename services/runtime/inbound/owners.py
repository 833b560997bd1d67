"""Whose request this is: what the gateway's metadata says about it, and nobody else's.

The certificate check lets only the gateway in, and the gateway lets no client set these keys.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import grpc

from services.runtime.core.engine import InvalidInput
from services.runtime.core.limits import TenantLimits

_PREFIX = "x-evenflow-"
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
    resumable: bool = False  # its stream may be carried on should it break

    @classmethod
    def of(cls, context: grpc.aio.ServicerContext) -> "Owner":
        """Raises InvalidInput naming the first key that is missing or wrong."""
        said = {
            key.removeprefix(_PREFIX): value
            for key, value in context.invocation_metadata() or ()
            if key.startswith(_PREFIX) and isinstance(value, str)
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
            resumable=said.get("resumable") == "1",
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
