"""Spans come in, prompts and outputs do not go out."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from services.telemetry.core.wall import may_leave
from services.telemetry.inbound.spans import TraceServicer, wall_off
from tests.fakes.collector import FakeSink

SECRET = "my secret prompt"
KEPT = [
    "gen_ai.request.model",
    "gen_ai.usage.input_tokens",
    "gen_ai.server.time_to_first_token",
    "evenflow.tenant",
    "http.status_code",
]
WALLED = [
    "gen_ai.input.messages",
    "gen_ai.output.messages",
    "gen_ai.prompt",
    "gen_ai.prompt.0.content",
    "gen_ai.completion.0.content",
    "GEN_AI.PROMPT",
    "gen_ai.system_instructions",
    "gen_ai.user.message",
]


def attribute(key: str, value: str = SECRET) -> KeyValue:
    return KeyValue(key=key, value=AnyValue(string_value=value))


def exported(span: Span, **resource: Any) -> ExportTraceServiceRequest:
    scopes = [ScopeSpans(spans=[span])]
    return ExportTraceServiceRequest(
        resource_spans=[ResourceSpans(scope_spans=scopes, resource=Resource(**resource))]
    )


@pytest.mark.parametrize("name", KEPT)
def test_ordinary_names_leave(name: str) -> None:
    assert may_leave(name)


@pytest.mark.parametrize("name", WALLED)
def test_names_of_prompts_and_outputs_do_not(name: str) -> None:
    assert not may_leave(name)


@pytest.mark.parametrize("name", WALLED)
def test_no_place_in_a_span_carries_them_out(name: str) -> None:
    inside = AnyValue(kvlist_value=KeyValueList(values=[attribute(name)]))
    nested = KeyValue(
        key="ours", value=AnyValue(array_value=ArrayValue(values=[AnyValue(), inside]))
    )
    span = Span(
        attributes=[attribute(name), nested],
        events=[
            Span.Event(name=name, attributes=[attribute("content")]),
            Span.Event(name="retry", attributes=[attribute(name)]),
        ],
        links=[Span.Link(attributes=[attribute(name)])],
    )
    request = exported(span, attributes=[attribute(name)])

    removed = wall_off(request)

    assert SECRET.encode() not in request.SerializeToString()
    assert removed == 6


@given(st.lists(st.sampled_from(KEPT + WALLED)))
def test_the_wall_takes_what_it_must_and_leaves_the_rest_in_order(names: list[str]) -> None:
    request = exported(Span(attributes=[attribute(name) for name in names]))

    wall_off(request)

    left = [each.key for each in request.resource_spans[0].scope_spans[0].spans[0].attributes]
    assert left == [name for name in names if name in KEPT]


def test_what_is_received_is_counted_walled_and_offered() -> None:
    sink = FakeSink()
    servicer = TraceServicer(sink)
    request = exported(Span(name="chat", attributes=[attribute("gen_ai.prompt")]))

    asyncio.run(servicer.Export(request, None))  # type: ignore[arg-type] # it asks no context

    assert sink.taken == [(exported(Span(name="chat")), 1)]
    assert (servicer.received, servicer.walled_off) == (1, 1)
