"""Writes the router's answer as Envoy takes it: headers for the runtime, or a refusal.

One refusal does for every caller: gRPC's and gRPC-Web's read their status in its headers, and for
OpenAI's Envoy makes the error object of them. docs/envoy.md has the contract.
"""

import base64
import math
from collections.abc import Iterable, Mapping
from typing import Any

import grpc
from envoy.config.core.v3.base_pb2 import HeaderValueOption
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse

from services.chassis.status import Status, rich_status
from services.router.core.verdicts import Reason, Refused

_Code = grpc.StatusCode
_CODES: Mapping[Reason, grpc.StatusCode] = {
    Reason.FIELD_INVALID: _Code.INVALID_ARGUMENT,
    Reason.BODY_INVALID: _Code.INVALID_ARGUMENT,
    Reason.UNKNOWN_IDENTITY: _Code.UNAUTHENTICATED,
    Reason.MODEL_NOT_ALLOWED: _Code.PERMISSION_DENIED,
    Reason.WORKLOAD_CLASS_NOT_ALLOWED: _Code.PERMISSION_DENIED,
    Reason.MODEL_NOT_FOUND: _Code.NOT_FOUND,
    Reason.OUTPUT_LIMIT: _Code.RESOURCE_EXHAUSTED,
    Reason.CONTEXT_LIMIT: _Code.RESOURCE_EXHAUSTED,
    Reason.NO_ENDPOINT: _Code.UNAVAILABLE,
    Reason.POLICY_STALE: _Code.UNAVAILABLE,
    Reason.DRAINING: _Code.UNAVAILABLE,
    Reason.DEADLINE: _Code.DEADLINE_EXCEEDED,
}
_HTTP: Mapping[grpc.StatusCode, int] = {
    _Code.INVALID_ARGUMENT: 400,
    _Code.UNAUTHENTICATED: 401,
    _Code.PERMISSION_DENIED: 403,
    _Code.NOT_FOUND: 404,
    _Code.RESOURCE_EXHAUSTED: 429,
    _Code.UNAVAILABLE: 503,
    _Code.DEADLINE_EXCEEDED: 504,
}
_OVERWRITE: int = HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
_DENIED: int = _Code.PERMISSION_DENIED.value[0]


def let_go(headers: Iterable[tuple[str, str]]) -> Any:
    """The request may go on, with these headers and without its key."""
    response = CheckResponse()
    response.ok_response.headers_to_remove.append("authorization")
    _add(response.ok_response.headers, headers)
    return response


def refusal(refused: Refused, request_id: str) -> Any:
    code = _CODES[refused.reason]
    response = CheckResponse()
    response.status.code = _DENIED
    response.denied_response.status.code = _HTTP[code]
    headers = _refusal_headers(refused, code)
    _add(response.denied_response.headers, (("x-evenflow-request-id", request_id), *headers))
    return response


def grpc_code(reason: Reason) -> int:
    code: int = _CODES[reason].value[0]
    return code


def _refusal_headers(refused: Refused, code: grpc.StatusCode) -> Iterable[tuple[str, str]]:
    rich = rich_status(
        Status(code, refused.reason.value),
        refused.message,
        field=refused.field,
        retry_after_s=refused.retry_after_s,
    )
    encoded = base64.b64encode(rich.SerializeToString()).decode().rstrip("=")
    yield "grpc-status", str(rich.code)
    yield "grpc-message", _percent_encoded(refused.message)
    yield "grpc-status-details-bin", encoded
    yield "x-evenflow-reason", refused.reason.value
    if refused.field is not None:
        yield "x-evenflow-field", refused.field
    if refused.retry_after_s is not None:
        yield "retry-after", str(math.ceil(refused.retry_after_s))
    elif code is _Code.RESOURCE_EXHAUSTED:
        yield "x-should-retry", "false"  # OpenAI's clients send a 429 again otherwise


def _percent_encoded(message: str) -> str:
    """https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md, Status-Message."""
    return "".join(
        chr(byte) if 0x20 <= byte <= 0x7E and byte != 0x25 else f"%{byte:02X}"
        for byte in message.encode()
    )


def _add(options: Any, headers: Iterable[tuple[str, str]]) -> None:
    for key, value in headers:
        option = options.add(append_action=_OVERWRITE)
        option.header.key = key
        option.header.value = value
