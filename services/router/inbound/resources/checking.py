"""How Envoy asks the router about each request: over HTTP/1.1, with what it knows in headers.

docs/adr/0005 says why not over gRPC, docs/envoy.md what is asked and answered.
"""

from datetime import timedelta

from envoy_data_plane.envoy.config.core.v3 import (
    ApiVersion,
    HeaderValue,
    HttpUri,
)
from envoy_data_plane.envoy.extensions.filters.http.ext_authz.v3 import (
    AuthorizationRequest,
    AuthorizationResponse,
    BufferSettings,
    ExtAuthz,
    HttpService,
)
from envoy_data_plane.envoy.type.matcher.v3 import ListStringMatcher, StringMatcher
from envoy_data_plane.envoy.type.v3 import HttpStatus, StatusCode

from services.router.core.snapshot import DataPlane
from services.router.inbound.asked import (
    LISTENER_HEADER,
    PEER_HEADER,
    RECEIVED_HEADER,
    SERIAL_HEADER,
)
from services.router.inbound.resources.names import (
    CHECK_CLUSTER,
    until_the_router_is_back,
)

# Besides path and authorization, which it always passes on.
_ASKED_WITH = ("x-request-id", "grpc-timeout", "traceparent")
_ORDERS = (
    *("x-evenflow-", "grpc-timeout", "x-envoy-upstream-rq-timeout-ms"),
    *("x-envoy-upstream-rq-per-try-timeout-ms", "x-envoy-hedge-on-per-try-timeout"),
    "x-envoy-max-retries",
)
_REFUSAL = ("x-evenflow-", "grpc-", "retry-after", "x-should-retry")
# A router that dies with a question in hand is asked again when it is back: nothing is lost with
# it but its own books, which the next one begins anew.
_ASK_AGAIN_ON = "connect-failure,refused-stream,reset"


def check(plane: DataPlane, listener: str) -> ExtAuthz:
    limit = timedelta(seconds=plane.queue_limit_s)
    return ExtAuthz(
        http_service=HttpService(
            server_uri=HttpUri(uri="http://router.evenflow", cluster=CHECK_CLUSTER, timeout=limit),
            authorization_request=AuthorizationRequest(headers_to_add=_said(listener, limit)),
            authorization_response=AuthorizationResponse(
                allowed_upstream_headers=_names(*_ORDERS),
                allowed_client_headers=_names(*_REFUSAL),
            ),
            retry_policy=until_the_router_is_back(retry_on=_ASK_AGAIN_ON),
        ),
        transport_api_version=ApiVersion.V3,
        allowed_headers=_names(*_ASKED_WITH),
        with_request_body=BufferSettings(
            max_request_bytes=plane.body_limit_bytes, pack_as_bytes=True
        ),
        # A hit goes elsewhere than the path says; without hits it saves a look at the routes.
        clear_route_cache=plane.response_cache,
        status_on_error=HttpStatus(code=StatusCode.ServiceUnavailable),
    )


def _said(listener: str, limit: timedelta) -> list[HeaderValue]:
    return [
        HeaderValue(key=LISTENER_HEADER, value=listener),
        HeaderValue(key=PEER_HEADER, value="%DOWNSTREAM_PEER_URI_SAN%"),  # of what it verified
        # Handshakes look at the list of revoked certificates; an open connection has no other.
        HeaderValue(key=SERIAL_HEADER, value="%DOWNSTREAM_PEER_SERIAL%"),
        HeaderValue(key=RECEIVED_HEADER, value="%START_TIME(%s.%6f)%"),
        # Envoy takes the longest wait between two tries for how long a try may last, too, unless a
        # header says otherwise.
        HeaderValue(
            key="x-envoy-upstream-rq-per-try-timeout-ms",
            value=str(int(limit.total_seconds() * 1000)),
        ),
    ]


def _names(*names: str) -> ListStringMatcher:
    """Of headers; one that ends with "-" is how a name begins."""
    return ListStringMatcher(
        patterns=[
            StringMatcher(prefix=each) if each.endswith("-") else StringMatcher(exact=each)
            for each in names
        ]
    )
