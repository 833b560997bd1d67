"""What a request goes through inside Envoy, in order, and why in this order.

Responses go through the same filters backwards.
"""

from functools import cache
from pathlib import Path

import betterproto2
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation as Mutation
from envoy_data_plane.envoy.config.core.v3 import (
    DataSource,
    HeaderValue,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
)
from envoy_data_plane.envoy.extensions.filters.http.cors.v3 import Cors
from envoy_data_plane.envoy.extensions.filters.http.grpc_json_transcoder.v3 import (
    GrpcJsonTranscoder,
    GrpcJsonTranscoderPrintOptions,
    GrpcJsonTranscoderUrlUnescapeSpec,
)
from envoy_data_plane.envoy.extensions.filters.http.grpc_web.v3 import GrpcWeb
from envoy_data_plane.envoy.extensions.filters.http.header_mutation.v3 import (
    HeaderMutation,
    Mutations,
)
from envoy_data_plane.envoy.extensions.filters.http.json_to_metadata.v3 import (
    JsonToMetadata,
    JsonToMetadataKeyValuePair,
    JsonToMetadataMatchRules,
    JsonToMetadataRule,
    JsonToMetadataSelector,
    JsonToMetadataValueType,
)
from envoy_data_plane.envoy.extensions.filters.http.lua.v3 import Lua
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import (
    Router,
    RouterUpstreamAccessLogOptions,
)
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher
from envoy_data_plane.google.protobuf import Any

from services.router.core.snapshot import DataPlane
from services.router.inbound.resources.checking import check
from services.router.inbound.resources.names import REQUEST_ID_HEADER
from services.router.inbound.resources.pools import pool_of_request
from services.router.inbound.resources.reporting import arms_log

# Only routes of OpenAI's API switch these on, so gRPC does not pay for them.
OPENAI_ERRORS = "evenflow.openai_errors"
OPENAI_BODY = "envoy.filters.http.json_to_metadata"
OPENAI_STREAM = "evenflow.openai_stream"
TRANSCODER = "envoy.filters.http.grpc_json_transcoder"
OPENAI_FILTERS = (OPENAI_ERRORS, OPENAI_BODY, OPENAI_STREAM, TRANSCODER)
CHECK = "envoy.filters.http.ext_authz"
CORS = "envoy.filters.http.cors"

TRANSCODED = ("evenflow.openai.v1.ChatService", "evenflow.openai.v1.ModelsService")
OPENAI_METADATA = "evenflow.openai"


def http_filters(plane: DataPlane, listener: str) -> list[HttpFilter]:
    """Only what Check has let through reaches the last one, which sends it on."""
    return [
        _filter("evenflow.request_id", _request_id_in_response()),
        _filter(CORS, Cors()),
        _filter(OPENAI_ERRORS, _lua("openai_errors"), disabled=True),  # sees what all below answer
        _filter("envoy.filters.http.grpc_web", GrpcWeb()),
        _filter(OPENAI_BODY, _is_a_stream_wanted(), disabled=True),
        _filter(OPENAI_STREAM, _lua("openai_stream"), disabled=True),
        _filter(TRANSCODER, _transcoder(plane), disabled=True),
        _filter(
            CHECK, check(plane, listener)
        ),  # after the transcoder: the router reads protobuf only
        _filter("envoy.filters.http.header_to_metadata", pool_of_request()),
        _filter("envoy.filters.http.router", _router()),
    ]


def _filter(name: str, config: betterproto2.Message, *, disabled: bool = False) -> HttpFilter:
    return HttpFilter(name=name, typed_config=Any.pack(config), disabled=disabled)


def _router() -> Router:
    return Router(
        suppress_envoy_headers=True,
        upstream_log=[arms_log()],
        upstream_log_options=RouterUpstreamAccessLogOptions(
            flush_upstream_log_on_upstream_stream=True
        ),
    )


def _request_id_in_response() -> HeaderMutation:
    """First, so that local answers of every other filter have it too."""
    header = HeaderValueOption(
        header=HeaderValue(key=REQUEST_ID_HEADER, value="%REQ(x-request-id)%"),
        append_action=HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
    )
    return HeaderMutation(mutations=Mutations(response_mutations=[Mutation(append=header)]))


def _is_a_stream_wanted() -> JsonToMetadata:
    """Reads `stream` out of the JSON body, whatever content type it is said to have."""
    rule = JsonToMetadataRule(
        selectors=[JsonToMetadataSelector(key="stream")],
        on_present=JsonToMetadataKeyValuePair(
            metadata_namespace=OPENAI_METADATA,
            key="stream",
            type=JsonToMetadataValueType.PROTOBUF_VALUE,
        ),
    )
    any_type = RegexMatcher(regex=".*")
    return JsonToMetadata(
        request_rules=JsonToMetadataMatchRules(
            rules=[rule], allow_content_types_regex=any_type, allow_empty_content_type=True
        )
    )


def _transcoder(plane: DataPlane) -> GrpcJsonTranscoder:
    return GrpcJsonTranscoder(
        proto_descriptor_bin=plane.descriptors,
        services=list(TRANSCODED),
        print_options=GrpcJsonTranscoderPrintOptions(
            always_print_primitive_fields=True,  # index 0 and an empty list of choices
            preserve_proto_field_names=True,
            stream_newline_delimited=True,
            stream_sse_style_delimited=True,
        ),
        ignore_unknown_query_parameters=True,
        url_unescape_spec=GrpcJsonTranscoderUrlUnescapeSpec.ALL_CHARACTERS,
        max_request_body_size=plane.body_limit_bytes,
    )


def _lua(name: str) -> Lua:
    return Lua(default_source_code=DataSource(inline_string=_script(name)), stat_prefix=name)


@cache
def _script(name: str) -> str:
    return Path(__file__).with_name(f"{name}.lua").read_text(encoding="utf-8")
