"""Whatever a client sends, the router's Check answers: let go, or a refusal with a reason."""

import asyncio
from typing import Any, cast

import grpc
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenflow.openai.v1.chat_service_pb2 import CreateChatCompletionRequest
from services.router.core.verdicts import Reason
from services.router.inbound.check import CheckServicer
from tests.fuzz.messages import (
    chat_completions,
    fields,
    framed,
    generate_requests,
    mended,
    serialized,
)
from tests.unit.router.values import KEY, LIMITS, mesh

REASONS = {each.value for each in Reason}
INFERENCE = "/evenflow.inference.v1.InferenceService"
CHAT = "/evenflow.openai.v1.ChatService"
METHODS = st.sampled_from(
    [
        *(f"{INFERENCE}/{name}" for name in ("Generate", "Tokenize", "CountTokens", "ListModels")),
        *(f"{CHAT}/{name}" for name in ("CreateChatCompletion", "StreamChatCompletion")),
        *("", "/", "/nobody.Service/Method?x=y", "/" + "a" * 5000),
    ]
)
CHATS = chat_completions().map(lambda chat: CreateChatCompletionRequest(completion=chat))
BODIES = framed(
    mended(serialized(generate_requests()))
    | mended(serialized(CHATS))
    | st.lists(fields()).map(b"".join)
) | st.binary(max_size=20)
VALUES = st.text(max_size=30) | st.sampled_from(["", "é", "\0", "x" * 40_000, "٣S", "0S"])
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "grpc-timeout": VALUES | st.from_regex(r"-?[0-9]{0,10}[HMSmunX]?", fullmatch=True),
        "authorization": VALUES
        | VALUES.map(lambda key: f"Bearer {key}")
        | st.just(f"bearer {KEY}"),
        "traceparent": VALUES | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}"),
        "x-request-id": VALUES,
    },
)
PRINCIPALS = VALUES | st.sampled_from(
    ["spiffe://evenflow.local/tenant/acme/web", "spiffe://evenflow.local/tenant/acme/*", "/", "*"]
)


class Call:
    def __init__(self, traceparent: str) -> None:
        self._traceparent = traceparent

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("traceparent", self._traceparent),)


@st.composite
def questions(draw: st.DrawFn) -> CheckRequest:
    request = CheckRequest()
    attributes = request.attributes
    attributes.source.principal = draw(PRINCIPALS)
    attributes.context_extensions["listener"] = draw(st.sampled_from(["mesh", "frontend"]))
    attributes.request.http.path = draw(METHODS)
    attributes.request.http.raw_body = draw(BODIES)
    attributes.request.http.headers.update(draw(HEADERS))
    return request


def answered(request: CheckRequest, traceparent: str = "") -> Any:
    of = mesh()
    servicer = CheckServicer(of, LIMITS, grace_s=5.0, clock=lambda: 10.0)
    context = cast(grpc.aio.ServicerContext, Call(traceparent))
    response = asyncio.run(servicer.Check(request, context))
    response.SerializeToString()  # its headers are text that can be sent
    in_flight = sum(of.requests.load(each.address).requests for each in of.endpoints.all())
    let_go_to_runtime = any(
        option.header.key == "x-evenflow-endpoints" for option in response.ok_response.headers
    )
    assert in_flight == let_go_to_runtime
    return response


@given(questions(), VALUES)
@settings(deadline=None)
def test_every_question_is_answered_with_a_reason_and_takes_a_slot_only_if_it_may_go(
    request: CheckRequest, traceparent: str
) -> None:
    response = answered(request, traceparent)

    if response.status.code == 0:
        return
    headers = {
        option.header.key: option.header.value for option in response.denied_response.headers
    }
    assert headers["x-evenflow-reason"] in REASONS
    assert int(headers["grpc-status"]) > 0
    assert all(len(value) < 4096 and value.isascii() for value in headers.values())


@given(framed(mended(serialized(generate_requests()))))
@settings(deadline=None)
def test_a_known_tenants_body_is_let_go_or_blamed(body: bytes) -> None:
    request = CheckRequest()
    request.attributes.source.principal = "spiffe://evenflow.local/tenant/acme/web"
    request.attributes.context_extensions["listener"] = "mesh"
    request.attributes.request.http.path = f"{INFERENCE}/Generate"
    request.attributes.request.http.raw_body = body

    response = answered(request)

    headers = {
        option.header.key: option.header.value for option in response.denied_response.headers
    }
    if headers.get("x-evenflow-reason") == "FIELD_INVALID":
        assert headers["x-evenflow-field"]
