"""The one place where exceptions become gRPC statuses.

Handlers raise domain errors and never touch status codes; each service lists its errors in an
`ErrorTable`. Anything not listed is a bug: it is logged once, with its way through the code, and
the caller sees INTERNAL and nothing more. An error may have a `field` (what the caller should mend)
and a `retry_after_s` (when to come back).
"""

import traceback
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import structlog
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status as RpcStatus
from grpc_status import rpc_status

from services.chassis.logs import add_facts

DOMAIN = "evenflow"
LONGEST_MESSAGE = 500  # characters; trailers above 8 KiB are refused by gRPC, and cut by Envoy

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Status:
    code: grpc.StatusCode
    reason: str  # UPPER_SNAKE, stable; clients may branch on it (google.rpc.ErrorInfo)


ErrorTable = Mapping[type[Exception], Status]


def rich_status(
    status: Status, message: str, *, field: str | None = None, retry_after_s: float | None = None
) -> RpcStatus:
    """A google.rpc.Status with ErrorInfo, and BadRequest and RetryInfo where they apply."""
    code: int = status.code.value[0]
    message = message if len(message) <= LONGEST_MESSAGE else f"{message[:LONGEST_MESSAGE]}..."
    rich = RpcStatus(code=code, message=message)
    details: list[Message] = [ErrorInfo(reason=status.reason, domain=DOMAIN)]
    if field is not None:
        violation = BadRequest.FieldViolation(field=field, description=message)
        details.append(BadRequest(field_violations=[violation]))
    if retry_after_s is not None:
        retry = RetryInfo()
        retry.retry_delay.FromNanoseconds(round(retry_after_s * 1e9))
        details.append(retry)
    for detail in details:
        rich.details.add().Pack(detail)
    return rich


def status_of(error: Exception, errors: ErrorTable) -> Status | None:
    """The status of an expected error, by its class or the nearest listed base; None for a bug."""
    for cls in type(error).__mro__:
        if cls in errors:
            return errors[cls]
    return None


_BUG = Status(grpc.StatusCode.INTERNAL, "BUG")


class _InternalError(Exception):
    """All that a caller learns of a bug."""


class Statuses:
    """Wraps every handler so that its exceptions leave as statuses."""

    def __init__(self, errors: ErrorTable) -> None:
        self._errors = errors

    @asynccontextmanager
    async def around(self, method: str, context: grpc.aio.ServicerContext) -> AsyncIterator[None]:
        try:
            yield
        except grpc.aio.AbortError:
            raise  # already a status
        except Exception as error:  # noqa: BLE001 - the one place; cancellation passes through
            status = status_of(error, self._errors)
            if status is None:
                _log.error("rpc.bug", method=method, error=type(error).__name__, trace=way(error))
                status, error = _BUG, _InternalError("internal error")
            add_facts(reason=status.reason)
            await _abort(context, _rich(error, status), status.reason)


def way(error: BaseException) -> str:
    """Where it came from, without its message: that may quote a caller's own text."""
    return "".join(traceback.format_tb(error.__traceback__))


def _rich(error: Exception, status: Status) -> RpcStatus:
    return rich_status(
        status,
        str(error),
        field=getattr(error, "field", None),
        retry_after_s=getattr(error, "retry_after_s", None),
    )


async def _abort(context: grpc.aio.ServicerContext, rich: RpcStatus, reason: str) -> None:
    status: Any = rpc_status.to_status(rich)
    trailers = [*(context.trailing_metadata() or ()), *status.trailing_metadata]
    if not any(key == "x-evenflow-reason" for key, _ in trailers):
        trailers.append(("x-evenflow-reason", reason))
    await context.abort(status.code, status.details, tuple(trailers))
