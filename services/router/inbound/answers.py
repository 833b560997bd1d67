"""Writes the router's answer as Envoy takes it: headers for the runtime, or a refusal.

A gRPC caller gets its status in headers, an OpenAI caller OpenAI's error object. Envoy keeps the
`grpc-status` of a denied response: facts and limits are in docs/envoy.md.
"""

import base64
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import grpc
from envoy.config.core.v3.base_pb2 import HeaderValueOption
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse

from services.chassis.status import Status, rich_status
from services.router.core.verdicts import Reason, Refused
from services.router.inbound.asked import Spoken

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
_HTTP: Mapping[grpc.StatusCode, tuple[int, str]] = {  # and OpenAI's word for the kind of error
    _Code.INVALID_ARGUMENT: (400, "invalid_request_error"),
    _Code.UNAUTHENTICATED: (401, "authentication_error"),
    _Code.PERMISSION_DENIED: (403, "permission_error"),
    _Code.NOT_FOUND: (404, "invalid_request_error"),
    _Code.RESOURCE_EXHAUSTED: (429, "rate_limit_error"),
    _Code.UNAVAILABLE: (503, "server_error"),
    _Code.DEADLINE_EXCEEDED: (504, "server_error"),
}
_OVERWRITE: int = HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
_DENIED: int = _Code.PERMISSION_DENIED.value[0]


def let_go(headers: Iterable[tuple[str, str]]) -> Any:
    """The request may go on, with these headers and without its key."""
    response = CheckResponse()
    response.ok_response.headers_to_remove.append("authorization")
    _add(response.ok_response.headers, headers)
    return response


def refusal(refused: Refused, *, spoken: Spoken, request_id: str) -> Any:
    code = _CODES[refused.reason]
    response = CheckResponse()
    response.status.code = _DENIED
    denied = response.denied_response
    headers = [
        ("x-evenflow-reason", refused.reason.value),
        ("x-evenflow-request-id", request_id),
    ]
    if spoken is Spoken.OPENAI:
        http, kind = _HTTP[code]
        denied.status.code = http
        denied.body = _error_object(refused, kind)
        headers += _openai_headers(refused)
    else:
        denied.status.code = 200
        headers += _grpc_headers(refused, code, spoken)
    _add(denied.headers, headers)
    return response


def grpc_code(reason: Reason) -> int:
    code: int = _CODES[reason].value[0]
    return code


def _error_object(refused: Refused, kind: str) -> str:
    error = {
        "message": refused.message,
        "type": kind,
        "param": refused.field,
        "code": refused.reason.value,
    }
    return json.dumps({"error": error})


def _openai_headers(refused: Refused) -> Iterable[tuple[str, str]]:
    yield "content-type", "application/json"
    if refused.retry_after_s is None:
        yield "x-should-retry", "false"  # OpenAI's clients retry a 429 otherwise
    else:
        yield "retry-after", str(math.ceil(refused.retry_after_s))


def _grpc_headers(
    refused: Refused, code: grpc.StatusCode, spoken: Spoken
) -> Iterable[tuple[str, str]]:
    rich = rich_status(
        Status(code, refused.reason.value),
        refused.message,
        field=refused.field,
        retry_after_s=refused.retry_after_s,
    )
    encoded = base64.b64encode(rich.SerializeToString()).decode().rstrip("=")
    web = "-web+proto" if spoken is Spoken.GRPC_WEB else ""
    yield "content-type", f"application/grpc{web}"
    yield "grpc-status", str(rich.code)
    yield "grpc-message", _percent_encoded(refused.message)
    yield "grpc-status-details-bin", encoded


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
