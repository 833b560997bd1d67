"""Reasons for what Envoy answers by itself, so that no caller is left with bare words.

Check's refusals are local replies too: what the router has said stays as it is.
"""

from envoy_data_plane.envoy.config.accesslog.v3 import (
    AccessLogFilter,
    ComparisonFilter,
    ComparisonFilterOp,
    StatusCodeFilter,
)
from envoy_data_plane.envoy.config.core.v3 import (
    HeaderValue,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
    RuntimeUInt32,
)
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    LocalReplyConfig,
    ResponseMapper,
)

REASONS = {  # docs/reasons.md
    400: "BODY_INVALID",
    404: "PATH_NOT_FOUND",
    408: "BODY_TOO_SLOW",
    413: "BODY_TOO_LARGE",
    503: "NO_ENDPOINT",
    504: "DEADLINE",
}


def local_replies() -> LocalReplyConfig:
    return LocalReplyConfig(mappers=[_mapper(status, name) for status, name in REASONS.items()])


def _mapper(status: int, reason: str) -> ResponseMapper:
    headers = {"x-evenflow-reason": reason}
    if status == 413:
        headers["grpc-status"] = "8"
    return ResponseMapper(filter=_when(status), headers_to_add=[_unless_set(*each) for each in headers.items()])


def _unless_set(key: str, value: str) -> HeaderValueOption:
    return HeaderValueOption(
        header=HeaderValue(key=key, value=value),
        append_action=HeaderValueOptionHeaderAppendAction.ADD_IF_ABSENT,
    )


def _when(status: int) -> AccessLogFilter:
    equal = ComparisonFilter(
        op=ComparisonFilterOp.EQ,
        value=RuntimeUInt32(default_value=status, runtime_key=f"evenflow.local_reply.{status}"),
    )
    return AccessLogFilter(status_code_filter=StatusCodeFilter(comparison=equal))
