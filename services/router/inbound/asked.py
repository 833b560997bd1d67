"""What Envoy asks about one request: who, what, by when.

Envoy has verified the certificate, and says so in headers of its own that no client can send. A
client's own headers are believed about nothing but its key and its deadline.
"""

import re
import uuid
from collections.abc import Callable, Mapping

from services.router.core.demands import InvalidDemand
from services.router.core.value import value
from services.router.inbound.resources.names import FRONT_END

# Of Envoy's question, by Envoy itself: resources/checking.py
LISTENER_HEADER = "x-evenflow-listener"
PEER_HEADER = "x-evenflow-peer"
SERIAL_HEADER = "x-evenflow-serial"
RECEIVED_HEADER = "x-evenflow-received"

_BEARER = "bearer "
_LONGEST_METHOD = 200  # of any of ours; what is kept with each decision is bounded
_REQUEST_ID = re.compile(r"[!-~]{1,128}")
_PEER = re.compile(r"[!-+\--~]+")  # without a comma: several names are nobody's
_SERIAL = re.compile(r"[0-9a-fA-F]{1,64}")  # twenty bytes, says RFC 5280
_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])", re.ASCII)
_SECONDS: Mapping[str, float] = {"H": 3600, "M": 60, "S": 1, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-([0-9a-f]{2})")


@value
class Question:
    """Envoy's request to the router. Header names are in lower case."""

    path: str
    headers: Mapping[str, str]
    body: bytes


@value
class Asked:
    request_id: str
    method: str  # "/package.Service/Method"
    spiffe_id: str | None  # verified; None on the front end
    serial: str  # of its certificate, in hexadecimal; empty on the front end
    api_key: str | None  # None on the mesh listener, and where none was sent
    timeout: str | None  # as the caller wrote it
    traceparent: str | None
    trace_id: str  # W3C's; empty: nothing is traced
    sampled: bool
    received_unix_s: float
    body: bytes

    def remaining_s(self) -> float | None:
        """Raises InvalidDemand for a `grpc-timeout` that gRPC does not know."""
        return None if self.timeout is None else _seconds(self.timeout)


def asked(question: Question, known: Callable[[str, float], bool]) -> Asked:
    """`known`: whether a request id is taken, by another request than the one received at that
    time; callers who repeat one get another."""
    headers = question.headers
    front_end = headers.get(LISTENER_HEADER) == FRONT_END
    received_unix_s = float(headers.get(RECEIVED_HEADER, 0.0))
    claimed = headers.get("x-request-id", "")
    traceparent = headers.get("traceparent")
    trace = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    is_free = _REQUEST_ID.fullmatch(claimed) and not known(claimed, received_unix_s)
    return Asked(
        request_id=claimed if is_free else str(uuid.uuid4()),
        method=question.path.partition("?")[0][:_LONGEST_METHOD],
        spiffe_id=None if front_end else _peer(headers.get(PEER_HEADER, "")),
        serial="" if front_end else _serial(headers.get(SERIAL_HEADER, "")),
        api_key=_api_key(headers.get("authorization", "")) if front_end else None,
        timeout=headers.get("grpc-timeout"),
        traceparent=traceparent,
        trace_id=trace[1] if trace else "",
        sampled=bool(int(trace[2], 16) & 1) if trace else False,
        received_unix_s=received_unix_s,
        body=question.body,
    )


def _peer(named: str) -> str:
    """Empty, which is nobody, for what can't be sent on in a header."""
    return named if _PEER.fullmatch(named) else ""


def _serial(named: str) -> str:
    return named if _SERIAL.fullmatch(named) else ""


def _api_key(authorization: str) -> str | None:
    scheme, key = authorization[: len(_BEARER)], authorization[len(_BEARER) :].strip()
    return key if key and scheme.lower() == _BEARER else None


def _seconds(timeout: str) -> float:
    match = _TIMEOUT.fullmatch(timeout)
    if match is None:
        raise InvalidDemand("grpc-timeout", f"must be as gRPC writes it, got {timeout[:20]!a}")
    return int(match[1]) * _SECONDS[match[2]]
