"""Reasons for what Envoy answers by itself, so that no caller is left with bare words.

Check's refusals are local replies too: what the router has said stays as it is.
"""

from dataclasses import dataclass

from envoy_data_plane.envoy.config.accesslog.v3 import (
    AccessLogFilter,
    AndFilter,
    ComparisonFilter,
    ComparisonFilterOp,
    ResponseFlagFilter,
    StatusCodeFilter,
)
from envoy_data_plane.envoy.config.core.v3 import (
    DataSource,
    HeaderValue,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
    RuntimeUInt32,
)
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    LocalReplyConfig,
    ResponseMapper,
)


@dataclass(frozen=True, slots=True)
class _Meaning:
    status: int
    reason: str  # docs/reasons.md
    grpc_status: int | None = None  # None: as Envoy derives it from the HTTP status
    flags: tuple[str, ...] = ()  # of the access log; empty: whatever they are
    message: str | None = None  # None: as Envoy says it


# The first that fits counts. Envoy's own words for a runtime out of reach tell of TLS and
# addresses, which is nothing for callers.
_OUT_OF_REACH = ("UF", "UH", "UC", "UR", "URX", "LR", "UO", "NC")
_MEANINGS = (
    _Meaning(400, "BODY_INVALID"),
    _Meaning(404, "PATH_NOT_FOUND", flags=("NC",), message="no such path or method"),
    _Meaning(408, "BODY_TOO_SLOW", grpc_status=4),  # DEADLINE_EXCEEDED
    _Meaning(413, "BODY_TOO_LARGE", grpc_status=8),  # RESOURCE_EXHAUSTED
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
    if meaning.message is not None:
        mapper.body = DataSource(inline_string=meaning.message)
    return mapper


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
    if not meaning.flags:
        return is_status
    flags = ResponseFlagFilter(flags=list(meaning.flags))
    has_flag = AccessLogFilter(response_flag_filter=flags)
    return AccessLogFilter(and_filter=AndFilter(filters=[is_status, has_flag]))
