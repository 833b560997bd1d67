"""Tells of each call by an operator, and of each that was refused to its caller, when it has ended.

What a call changes is its servicer's to tell, before it is done.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc

from services.chassis.callers import CallerNotAllowed
from services.chassis.identity import peer_id
from services.chassis.status import ErrorTable, status_of

_OPERATOR = "operator"
_QUIET = ("/grpc.health.v1.Health/", "/grpc.reflection.")  # asked every second by machines


@dataclass(frozen=True, slots=True)
class AdminCall:
    caller: str  # SPIFFE ID; empty: it has none
    method: str
    outcome: str  # "done", "cancelled", or the reason why not


class AdminCalls:
    """`tell` may not wait."""

    def __init__(self, tell: Callable[[AdminCall], None], errors: ErrorTable) -> None:
        self._tell = tell
        self._errors = errors

    @asynccontextmanager
    async def around(self, method: str, context: grpc.aio.ServicerContext) -> AsyncIterator[None]:
        caller = peer_id(context)  # not later: see OneLine
        is_operator = caller is not None and caller.service == _OPERATOR
        try:
            yield
        finally:
            error = sys.exc_info()[1]
            refused = isinstance(error, CallerNotAllowed)
            if (is_operator or refused) and not method.startswith(_QUIET):
                self._tell(AdminCall(str(caller or ""), method, self._outcome(error)))

    def _outcome(self, error: BaseException | None) -> str:
        if error is None:
            return "done"
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            return "cancelled"
        status = status_of(error, self._errors) if isinstance(error, Exception) else None
        return status.reason if status else "BUG"
