"""Where a method goes once it is known: to a runtime that the router picks, or to the router.

A request is routed twice: as it came in, and again after the transcoder has made gRPC of it. The
first time decides whether OpenAI's filters run, the second whether Check does.
"""

from datetime import timedelta

from envoy_data_plane.envoy.config.route.v3 import (
    FilterConfig,
    HeaderMatcher,
    RetryPolicy,
    RetryPolicyRetryBackOff,
    Route,
    RouteAction,
    RouteActionClusterNotFoundResponseCode,
    RouteConfiguration,
    RouteMatch,
    VirtualHost,
)
from envoy_data_plane.envoy.extensions.filters.http.cors.v3 import CorsPolicy
from envoy_data_plane.envoy.extensions.filters.http.ext_authz.v3 import (
    ExtAuthzPerRoute,
)
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher, StringMatcher
from envoy_data_plane.google.protobuf import Any

from services.router.core.snapshot import DataPlane
from services.router.inbound.answers import RETRIES
from services.router.inbound.resources.filters import CHECK, CORS, OPENAI_FILTERS
from services.router.inbound.resources.names import (
    CACHED_HEADER,
    FRONT_END,
    MESH,
    RETRY_ROUTER_ON,
    ROUTER_CLUSTER,
    ROUTER_TRIES,
    ROUTER_TRY_AFTER,
    ROUTER_TRY_AFTER_MOST,
    RUNTIME_CLUSTER,
)

TO_RUNTIMES = (
    "/evenflow.inference.v1.InferenceService/Generate",
    "/evenflow.inference.v1.InferenceService/Tokenize",
    "/evenflow.inference.v1.InferenceService/CountTokens",
    "/evenflow.openai.v1.ChatService/CreateChatCompletion",
    "/evenflow.openai.v1.ChatService/StreamChatCompletion",
)
TO_ROUTER = (  # prefixes
    "/evenflow.inference.v1.InferenceService/ListModels",
    "/evenflow.openai.v1.ModelsService/",
    "/grpc.health.v1.Health/",
    "/grpc.reflection.v1alpha.ServerReflection/",
)
# Only what shows that no token was made. The runtime sends its headers with its first token, so
# nothing is retried after it. 5xx is not among them: a bug is not cured by another try.
RETRY_ON = "connect-failure,refused-stream,reset-before-request,reset,unavailable"
# gRPC's only method. HTTP/2 lets callers make up others, and Envoy asks the router with theirs.
_POST = HeaderMatcher(name=":method", string_match=StringMatcher(exact="POST"))
# Check's word, which clears the route that was found before it: the router has the answer.
_CACHED = HeaderMatcher(name=CACHED_HEADER, present_match=True)
# Not `unavailable`, nor often: a router that was started since does not have it.
_TAKEN = "connect-failure,refused-stream,reset-before-request"


def routes(plane: DataPlane) -> list[RouteConfiguration]:
    return [_configuration(MESH, ()), _configuration(FRONT_END, plane.cors_origins)]


def _configuration(listener: str, origins: tuple[str, ...]) -> RouteConfiguration:
    host = VirtualHost(
        name=listener,
        domains=["*"],
        routes=[
            _route(
                RouteMatch(prefix="/evenflow.", headers=[_POST, _CACHED]),
                _to_router(_TAKEN, tries=RETRIES),
            ),
            *(
                _route(RouteMatch(path=path, headers=[_POST]), _to_runtime())
                for path in TO_RUNTIMES
            ),
            *(
                _route(RouteMatch(prefix=prefix, headers=[_POST]), _to_router(RETRY_ROUTER_ON))
                for prefix in TO_ROUTER
            ),
            _unknown(),
        ],
        typed_per_filter_config={CORS: Any.pack(_cors(origins))} if origins else {},
        request_headers_to_remove=["authorization", "cookie"],  # Check has seen them
        include_request_attempt_count=True,
    )
    return RouteConfiguration(name=listener, virtual_hosts=[host])


def _route(match: RouteMatch, action: RouteAction) -> Route:
    return Route(match=match, route=action)


def _to_runtime() -> RouteAction:
    return RouteAction(
        cluster=RUNTIME_CLUSTER,
        timeout=timedelta(0),  # answers stream for as long as they take
        retry_policy=RetryPolicy(
            retry_on=RETRY_ON,
            num_retries=RETRIES,
            retry_back_off=RetryPolicyRetryBackOff(base_interval=timedelta(milliseconds=1)),
        ),
    )


def _to_router(retry_on: str, tries: int = ROUTER_TRIES) -> RouteAction:
    return RouteAction(
        cluster=ROUTER_CLUSTER,
        timeout=timedelta(0),
        retry_policy=RetryPolicy(
            retry_on=retry_on,
            num_retries=tries,
            retry_back_off=RetryPolicyRetryBackOff(
                base_interval=ROUTER_TRY_AFTER, max_interval=ROUTER_TRY_AFTER_MOST
            ),
        ),
    )


def _unknown() -> Route:
    """Every path that is no gRPC method of ours: the transcoder's, or nobody's.

    What the transcoder knows, it routes again. The rest gets here, asks nobody, and is not found.
    A cluster that is not there says so better than a direct response, which would skip CORS.
    """
    return Route(
        match=RouteMatch(prefix="/"),
        route=RouteAction(
            cluster="nobody",
            cluster_not_found_response_code=RouteActionClusterNotFoundResponseCode.NOT_FOUND,
        ),
        typed_per_filter_config={
            **dict.fromkeys(OPENAI_FILTERS, Any.pack(FilterConfig(config=Any()))),
            CHECK: Any.pack(ExtAuthzPerRoute(disabled=True)),
        },
    )


def _cors(origins: tuple[str, ...]) -> CorsPolicy:
    anyone = StringMatcher(safe_regex=RegexMatcher(regex=".*"))
    return CorsPolicy(
        allow_origin_string_match=[
            anyone if origin == "*" else StringMatcher(exact=origin) for origin in origins
        ],
        allow_methods="GET, POST, OPTIONS",
        allow_headers="authorization, content-type, x-grpc-web, x-user-agent, grpc-timeout",
        expose_headers="grpc-status, grpc-message, grpc-status-details-bin, x-evenflow-request-id, "
        "x-evenflow-degradations, x-evenflow-cache, x-evenflow-prompt",
        max_age="86400",
    )
