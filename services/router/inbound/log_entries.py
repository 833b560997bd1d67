"""Reads one HTTP entry of Envoy's access log (envoy.data.accesslog.v3) as the end of a request."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from envoy.data.accesslog.v3.accesslog_pb2 import AccessLogType

from services.router.core.endings import Code, Cut, Ended, Usage, final_code
from services.router.degradations import DEGRADATIONS_HEADER, degradations_said
from services.router.inbound.resources.names import ROUTER_CLUSTER

_FLAGS = {  # the first that is set says who cut it
    "upstream_max_stream_duration_reached": Cut.DEADLINE,
    "duration_timeout": Cut.DEADLINE,
    "upstream_request_timeout": Cut.DEADLINE,
    "stream_idle_timeout": Cut.DEADLINE,
    "downstream_connection_termination": Cut.CALLER,
    "downstream_remote_reset": Cut.CALLER,
    "no_healthy_upstream": Cut.NOWHERE,
    "upstream_connection_failure": Cut.NOWHERE,
    "upstream_overflow": Cut.NOWHERE,
    "upstream_remote_reset": Cut.RUNTIME,
    "upstream_connection_termination": Cut.RUNTIME,
    "upstream_protocol_error": Cut.RUNTIME,
}
_HIGHEST_CODE = max(Code)
_LONGEST_REASON = 100
_MOST_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Arm:
    """A retry or a hedge."""

    request_id: str
    endpoint: str


def ended(entry: Any) -> Ended:
    common, request, response = entry.common_properties, entry.request, entry.response
    # Trailers win: an OpenAI caller's were headers once the transcoder had made one answer of it.
    said: Mapping[str, str] = {**response.response_headers, **response.response_trailers}
    cut = _cut(common)
    usage = _usage(said)
    code = final_code(
        _code(said.get("grpc-status")), cut=cut, http_status=response.response_code.value
    )
    answered = usage.output_tokens > 0 if usage else code == Code.OK or cut is not Cut.NOBODY
    return Ended(
        request_id=request.request_headers.get("x-evenflow-request-id") or request.request_id,
        method=request.path.partition("?")[0],
        tenant=request.request_headers.get("x-evenflow-tenant", ""),
        began_unix_s=common.start_time.seconds + common.start_time.nanos * 1e-9,
        duration_s=_duration_s(common),
        first_token_s=_first_token_s(entry) if answered else None,
        endpoint=_address(common.upstream_remote_address),
        grpc_code=code,
        reason=said.get("x-evenflow-reason", "")[:_LONGEST_REASON],
        usage=usage,
        model_version=said.get("x-evenflow-model-version", ""),
        engine=said.get("x-evenflow-engine", ""),
        attempts=_attempts(common),
        read_s=_seconds(common.time_to_last_rx_byte),
        sent_s=_sent_s(common),
        echoed_attempt=_attempt(said.get("x-evenflow-attempt", "")),
        degradations=degradations_said(said.get(DEGRADATIONS_HEADER, "")),
    )


def arm(entry: Any) -> Arm | None:
    """A word of Envoy's on an attempt after the first, as it is sent; None: another word."""
    common = entry.common_properties
    if common.access_log_type != AccessLogType.UpstreamPoolReady:
        return None
    request_id = entry.request.request_headers.get("x-evenflow-request-id", "")
    return Arm(request_id, _address(common.upstream_remote_address))


def _sent_s(common: Any) -> float | None:
    if not common.HasField("time_to_first_upstream_tx_byte"):
        return None
    return _seconds(common.time_to_first_upstream_tx_byte)


def _attempt(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) == 1 else None


def _cut(common: Any) -> Cut:
    if not common.HasField("response_flags"):
        return Cut.NOBODY  # as nearly always: a dozen fields need not be looked at
    flags = common.response_flags
    return next((cut for flag, cut in _FLAGS.items() if getattr(flags, flag)), Cut.NOBODY)


def _code(text: str | None) -> int | None:
    if not text or len(text) > _MOST_DIGITS or not text.isdecimal():
        return None
    return int(text) if int(text) <= _HIGHEST_CODE else None


def _usage(said: Mapping[str, str]) -> Usage | None:
    tokens = [said.get(f"x-evenflow-{kind}-tokens", "") for kind in ("prompt", "cached", "output")]
    if not all(each.isdecimal() and len(each) <= _MOST_DIGITS for each in tokens):
        return None
    prompt, cached, output = map(int, tokens)
    return Usage(prompt, cached, output)


def _duration_s(common: Any) -> float:
    if common.HasField("duration"):
        return _seconds(common.duration)
    return _seconds(common.time_to_last_downstream_tx_byte)


def _first_token_s(entry: Any) -> float | None:
    """Runtimes send their headers with the first token, so the first byte is the first token.

    Not where a refusal was all that came: it has no body.
    """
    common = entry.common_properties
    if not common.HasField("time_to_first_upstream_rx_byte") or (
        not entry.response.response_body_bytes
    ):
        return None
    return _seconds(common.time_to_first_upstream_rx_byte)


def _seconds(duration: Any) -> float:
    seconds: float = duration.seconds + duration.nanos * 1e-9
    return seconds


def _attempts(common: Any) -> int:
    if common.upstream_cluster == ROUTER_CLUSTER:
        return 0  # the router answered itself
    attempts: int = common.upstream_request_attempt_count
    return attempts


def _address(address: Any) -> str:
    socket = address.socket_address
    if not socket.address:
        return ""
    host = f"[{socket.address}]" if ":" in socket.address else socket.address
    return f"{host}:{socket.port_value}"
