"""Writes the router's answer as Envoy takes it: headers for the runtime, or a refusal.

One refusal does for every caller: gRPC's and gRPC-Web's read their status in its headers, and for
OpenAI's Envoy makes the error object of them. docs/envoy.md has the contract.
"""

import base64
import math
from collections.abc import Iterable, Mapping, Sequence

import grpc

from services.chassis.status import Status, rich_status
from services.router.core.value import value
from services.router.core.verdicts import Reason, Refused
from services.router.degradations import DEGRADATIONS_HEADER, degradations_text

RETRIES = 2  # Envoy's, of one request, before its first token
_Code = grpc.StatusCode
_CODES: Mapping[Reason, grpc.StatusCode] = {
    Reason.FIELD_INVALID: _Code.INVALID_ARGUMENT,
    Reason.BODY_INVALID: _Code.INVALID_ARGUMENT,
    Reason.UNKNOWN_IDENTITY: _Code.UNAUTHENTICATED,
    Reason.KEY_EXPIRED: _Code.UNAUTHENTICATED,
    Reason.CERTIFICATE_REVOKED: _Code.UNAUTHENTICATED,
    Reason.MODEL_NOT_ALLOWED: _Code.PERMISSION_DENIED,
    Reason.WORKLOAD_CLASS_NOT_ALLOWED: _Code.PERMISSION_DENIED,
    Reason.RESUME_NOT_ALLOWED: _Code.PERMISSION_DENIED,
    Reason.MODEL_NOT_FOUND: _Code.NOT_FOUND,
    Reason.PROMPT_NOT_FOUND: _Code.NOT_FOUND,
    Reason.OUTPUT_LIMIT: _Code.RESOURCE_EXHAUSTED,
    Reason.CONTEXT_LIMIT: _Code.RESOURCE_EXHAUSTED,
    Reason.NO_ENDPOINT: _Code.UNAVAILABLE,
    Reason.POLICY_STALE: _Code.UNAVAILABLE,
    Reason.DRAINING: _Code.UNAVAILABLE,
    Reason.DEADLINE: _Code.DEADLINE_EXCEEDED,
    Reason.QUEUE_FULL: _Code.RESOURCE_EXHAUSTED,
    Reason.TENANT_QUEUE_FULL: _Code.RESOURCE_EXHAUSTED,
    Reason.QUEUE_TIMEOUT: _Code.RESOURCE_EXHAUSTED,
    Reason.DEADLINE_UNREACHABLE: _Code.DEADLINE_EXCEEDED,
    Reason.SHED: _Code.UNAVAILABLE,
    Reason.AUDIT_UNAVAILABLE: _Code.UNAVAILABLE,
    Reason.REQUEST_RATE_LIMIT: _Code.RESOURCE_EXHAUSTED,
    Reason.TOKEN_RATE_LIMIT: _Code.RESOURCE_EXHAUSTED,
    Reason.CONCURRENCY_LIMIT: _Code.RESOURCE_EXHAUSTED,
    Reason.KV_LIMIT: _Code.RESOURCE_EXHAUSTED,
    Reason.BUDGET_EXHAUSTED: _Code.RESOURCE_EXHAUSTED,
    Reason.LEDGER_UNREACHABLE: _Code.UNAVAILABLE,
    Reason.MODEL_NOT_PRICED: _Code.PERMISSION_DENIED,
}
UNAVAILABLE, DEADLINE_EXCEEDED = 463, 464
_HTTP: Mapping[grpc.StatusCode, int] = {
    _Code.INVALID_ARGUMENT: 400,
    _Code.UNAUTHENTICATED: 401,
    _Code.PERMISSION_DENIED: 403,
    _Code.NOT_FOUND: 404,
    _Code.RESOURCE_EXHAUSTED: 429,
    # Envoy takes a 5xx for a router that failed and drops what it says. It makes 503 and 504 of
    # these two (resources/local_replies.py), which nobody else uses.
    _Code.UNAVAILABLE: UNAVAILABLE,
    _Code.DEADLINE_EXCEEDED: DEADLINE_EXCEEDED,
}


_OK = 200
_NO_CHUNKS = "transfer-encoding: chunked\r\n"
Headers = tuple[tuple[str, str], ...]


@value
class Answer:
    """200: the request may go on, with these headers. 4xx: they are the refusal."""

    status: int
    headers: Headers

    def encoded(self, *, last: bool = False) -> bytes:
        """As HTTP/1.1. `last`: the connection ends with it."""
        lines = [f"HTTP/1.1 {self.status} \r\n"]
        lines += [f"{key}: {value}\r\n" for key, value in self.headers]
        # No content-length for a refusal: it would become the client's.
        lines.append("content-length: 0\r\n" if self.status == _OK else _NO_CHUNKS)
        lines.append("connection: close\r\n\r\n" if last else "\r\n")
        if self.status != _OK:
            lines.append("0\r\n\r\n")
        return "".join(lines).encode("latin-1")


# Envoy makes a refusal of it. A connection that just ended would be asked again, up to 40 times.
FAILED = Answer(500, ())


def in_turn(endpoints: Sequence[str]) -> str:
    """One for each attempt: behind the list's end Envoy takes any, also one that was left out."""
    attempts = max(1 + RETRIES, len(endpoints))
    return ",".join([*endpoints, *([*endpoints] * RETRIES)][:attempts])


def let_go(headers: Iterable[tuple[str, str]]) -> Answer:
    return Answer(_OK, tuple(headers))


def refusal(refused: Refused, request_id: str) -> Answer:
    code = _CODES[refused.reason]
    headers = _refusal_headers(refused, code)
    return Answer(_HTTP[code], (("x-evenflow-request-id", request_id), *headers))


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
    if refused.degraded.taken:
        yield DEGRADATIONS_HEADER, degradations_text(refused.degraded.taken)
    if refused.field is not None:
        yield "x-evenflow-field", _percent_encoded(refused.field)
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
