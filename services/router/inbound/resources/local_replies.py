"""Reasons for what Envoy answers by itself, so that no caller is left with bare words.

Check's refusals are local replies too: what the router has said stays as it is. What is refused
before any filter has seen it gets OpenAI's error object here, all else from openai_errors.lua.
"""

import json
from dataclasses import dataclass

from envoy_data_plane.envoy.config.accesslog.v3 import (
    AccessLogFilter,
    AndFilter,
    ComparisonFilter,
    ComparisonFilterOp,
    ExtensionFilter,
    ResponseFlagFilter,
    StatusCodeFilter,
)
from envoy_data_plane.envoy.config.core.v3 import (
    DataSource,
    HeaderValue,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
    RuntimeUInt32,
    SubstitutionFormatString,
)
from envoy_data_plane.envoy.extensions.access_loggers.filters.cel.v3 import ExpressionFilter
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    LocalReplyConfig,
    ResponseMapper,
)
from envoy_data_plane.google.protobuf import Any

from services.router.inbound.answers import DEADLINE_EXCEEDED, UNAVAILABLE


@dataclass(frozen=True, slots=True)
class _Meaning:
    status: int
    reason: str  # docs/reasons.md
    grpc_status: int | None = None  # None: as Envoy derives it from the HTTP status
    flags: tuple[str, ...] = ()  # of the access log; empty: whatever they are
    message: str | None = None  # None: as Envoy says it
    details: tuple[str, ...] = ()  # how Envoy's name of the cause begins; empty: however
    seen_as: int | None = None  # the HTTP status to answer with; None: the one that Envoy chose
    is_early: bool = False  # no filter has seen it


# The first that fits counts. Envoy's own words for a runtime out of reach tell of TLS and
# addresses, which is nothing for callers.
_OUT_OF_REACH = ("UF", "UH", "UC", "UR", "URX", "LR", "UO", "NC")
_NOT_HTTP = "not an HTTP request as this mesh takes it"
_TOO_MANY = "the headers must be at most 100 and 32 KiB"
_MEANINGS = (
    _Meaning(
        400,
        "REQUEST_INVALID",
        details=("http1.", "missing_host_header", "path_normalization_failed"),
        message=_NOT_HTTP,
        is_early=True,
    ),
    _Meaning(400, "BODY_INVALID"),
    _Meaning(403, "REQUEST_INVALID", details=("upgrade_failed",), message=_NOT_HTTP, seen_as=400),
    _Meaning(404, "PATH_NOT_FOUND", flags=("NC",), message="no such path or method"),
    _Meaning(408, "BODY_TOO_SLOW", grpc_status=4),  # DEADLINE_EXCEEDED
    _Meaning(413, "BODY_TOO_LARGE", grpc_status=8),  # RESOURCE_EXHAUSTED
    _Meaning(426, "REQUEST_INVALID", message=_NOT_HTTP, is_early=True),
    _Meaning(431, "HEADERS_TOO_LARGE", message=_TOO_MANY, is_early=True),
    # Check's own headers were too many on top of the caller's.
    _Meaning(
        500, "HEADERS_TOO_LARGE", grpc_status=8, flags=("UAEX",), message=_TOO_MANY, seen_as=431
    ),
    # The router's own words: of a 5xx, Envoy would not have passed them on.
    _Meaning(UNAVAILABLE, "NO_ENDPOINT", seen_as=503),
    _Meaning(DEADLINE_EXCEEDED, "DEADLINE", seen_as=504),
    _Meaning(502, "NO_ENDPOINT", message="no runtime could be reached"),
    _Meaning(503, "NO_ENDPOINT", flags=_OUT_OF_REACH, message="no runtime could be reached"),
    _Meaning(503, "NO_ENDPOINT"),
    _Meaning(504, "DEADLINE", grpc_status=4),  # DEADLINE_EXCEEDED
)


def local_replies() -> LocalReplyConfig:
    return LocalReplyConfig(mappers=[_mapper(each) for each in _MEANINGS])


def _mapper(meaning: _Meaning) -> ResponseMapper:
    headers = [_unless_set("x-evenflow-reason", meaning.reason)]
    if meaning.grpc_status is not None:
        headers.append(_unless_set("grpc-status", str(meaning.grpc_status)))
    mapper = ResponseMapper(filter=_when(meaning), headers_to_add=headers)
    if meaning.seen_as is not None:
        mapper.status_code = meaning.seen_as
    if meaning.message is not None:
        mapper.body = DataSource(inline_string=meaning.message)
    if meaning.is_early:
        mapper.body_format_override = _openai_error(meaning)
    return mapper


def _openai_error(meaning: _Meaning) -> SubstitutionFormatString:
    error = {
        "message": meaning.message,
        "type": "invalid_request_error",
        "param": None,
        "code": meaning.reason,
    }
    text = DataSource(inline_string=json.dumps({"error": error}))
    return SubstitutionFormatString(text_format_source=text, content_type="application/json")


def _unless_set(key: str, value: str) -> HeaderValueOption:
    return HeaderValueOption(
        header=HeaderValue(key=key, value=value),
        append_action=HeaderValueOptionHeaderAppendAction.ADD_IF_ABSENT,
    )


def _when(meaning: _Meaning) -> AccessLogFilter:
    status = ComparisonFilter(
        op=ComparisonFilterOp.EQ,
        value=RuntimeUInt32(default_value=meaning.status, runtime_key="evenflow.unused"),
    )
    is_status = AccessLogFilter(status_code_filter=StatusCodeFilter(comparison=status))
    filters = [is_status]
    if meaning.flags:
        flags = ResponseFlagFilter(flags=list(meaning.flags))
        filters.append(AccessLogFilter(response_flag_filter=flags))
    if meaning.details:
        filters.append(_because(meaning.details))
    if len(filters) == 1:
        return is_status
    return AccessLogFilter(and_filter=AndFilter(filters=filters))


def _because(details: tuple[str, ...]) -> AccessLogFilter:
    expression = " || ".join(f'response.code_details.startsWith("{each}")' for each in details)
    extension = ExtensionFilter(
        name="envoy.access_loggers.extension_filters.cel",
        typed_config=Any.pack(ExpressionFilter(expression=expression)),
    )
    return AccessLogFilter(extension_filter=extension)
