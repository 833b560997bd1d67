"""What a call to the mesh can end with, other than an answer: one exception for each way out.

The mesh's own statuses carry google.rpc.ErrorInfo with the domain "evenflow"; a status without
it was made by gRPC or Envoy, and says that something between the caller and a runtime broke.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

DOMAIN = "evenflow"
_STATUS_KEY = "grpc-status-details-bin"

Metadata = Sequence[tuple[str, str | bytes]]
M = TypeVar("M", bound=Message)


class EvenflowError(Exception):
    """A call that did not end with an answer. Subclasses say what to do about it."""


class Refused(EvenflowError):
    """The mesh said no, or failed in a way it knows: see `reason`, which is stable."""

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode,
        reason: str,
        field: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.field = field  # what was wrong with the request
        self.retry_after_s = retry_after_s  # None: waiting does not help, or nobody knows

    def __str__(self) -> str:
        where = f" ({self.field})" if self.field else ""
        return f"{self.reason}{where}: {self.message}"


class StreamLost(EvenflowError):
    """The stream broke after its first token and was not, or could not be, carried on. Nothing was
    wrong with the request: ask again, or go on from `text`."""

    def __init__(  # noqa: PLR0913 - what is known of it
        self,
        message: str,
        *,
        text: str,
        tokens: int,
        request_id: str,
        reason: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s  # as in Refused
        self.reason = reason  # as in Refused, if the runtime could say so; empty: it was cut off
        self.text = text  # what had arrived
        self.tokens = tokens
        self.request_id = request_id


class Unreachable(EvenflowError):
    """No answer began: the mesh is down, or TLS failed. Safe to try again."""


class DeadlineExceeded(EvenflowError):
    """The caller's deadline passed, or can't be met (`reason` DEADLINE_UNREACHABLE); `text` is what
    had arrived."""

    def __init__(
        self,
        message: str,
        *,
        text: str = "",
        reason: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.text = text
        self.reason = reason  # empty: the caller's own clock
        self.retry_after_s = retry_after_s  # as in Refused


class Cancelled(EvenflowError):
    """The call was cancelled, by the caller or by the mesh."""


@dataclass(slots=True)
class Progress:
    """What a stream has brought so far."""

    text: str = ""
    tokens: int = 0
    request_id: str = ""  # empty until the first token


class FailedCall(Protocol):
    """What grpc.aio.AioRpcError and the synchronous grpc.RpcError of a call have in common."""

    def code(self) -> grpc.StatusCode: ...

    def details(self) -> str | None: ...

    def trailing_metadata(self) -> Metadata | None: ...


def error_of(call: FailedCall, progress: Progress | None = None) -> EvenflowError:
    """The exception for a failed call, to be raised from gRPC's own."""
    progress = progress or Progress()
    code, message = call.code(), call.details() or call.code().name
    details = _details(call.trailing_metadata() or ())
    match code:
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceeded(
                message,
                text=progress.text,
                reason=_reason(details),
                retry_after_s=_retry_after_s(details),
            )
        case grpc.StatusCode.CANCELLED:
            return Cancelled(message)
    reason = _reason(details)
    lost = progress.request_id and (not reason or code is grpc.StatusCode.UNAVAILABLE)
    if reason and not lost:
        return _refused(message, code, reason, details)
    if lost:
        return StreamLost(
            f"the stream broke after {progress.tokens} tokens: {message}",
            text=progress.text,
            tokens=progress.tokens,
            request_id=progress.request_id,
            reason=reason,
            retry_after_s=_retry_after_s(details),
        )
    if code is grpc.StatusCode.UNAVAILABLE:
        return Unreachable(message)
    return _refused(message, code, code.name, details)


def _refused(message: str, code: grpc.StatusCode, reason: str, details: Status) -> Refused:
    wrong = _first(details, BadRequest)
    return Refused(
        message,
        code=code,
        reason=reason,
        field=wrong.field_violations[0].field if wrong and wrong.field_violations else None,
        retry_after_s=_retry_after_s(details),
    )


def _reason(details: Status) -> str:
    info = _first(details, ErrorInfo)
    return info.reason if info is not None and info.domain == DOMAIN else ""


def _retry_after_s(details: Status) -> float | None:
    retry = _first(details, RetryInfo)
    return retry.retry_delay.ToTimedelta().total_seconds() if retry else None


def _details(trailers: Metadata) -> Status:
    for key, value in trailers:
        if key == _STATUS_KEY and isinstance(value, bytes):
            return Status.FromString(value)
    return Status()


def _first(status: Status, kind: type[M]) -> M | None:
    for detail in status.details:
        if detail.Is(kind.DESCRIPTOR):
            found = kind()
            detail.Unpack(found)
            return found
    return None
