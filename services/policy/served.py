"""A servicer, and who may call it: what each part of the policy service hands to main.py."""

from collections.abc import Callable
from dataclasses import dataclass, field

import grpc

from services.chassis.callers import AllowedCallers
from services.chassis.status import ErrorTable


@dataclass(frozen=True, slots=True)
class Served:
    service: str  # full proto name
    callers: AllowedCallers
    add_to: Callable[[grpc.aio.Server], None]
    errors: ErrorTable = field(default_factory=dict)
