"""The span of a question whose trace is sampled."""

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.router.inbound import judgements
from tests.unit.router.test_check import answer
from tests.unit.router.values import A, check_request, mesh

TRACEPARENT = f"00-{'ab' * 16}-{'cd' * 8}-"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(judgements, "_tracer", provider.get_tracer("test"))
    return exporter


def test_a_sampled_trace_gets_one_span_with_the_decision(spans: InMemorySpanExporter) -> None:
    shared = mesh()
    answer(check_request(traceparent=f"{TRACEPARENT}01"), shared)

    span = spans.get_finished_spans()[0]
    assert span.parent is not None
    assert (span.context.trace_id, span.parent.span_id) == (int("ab" * 16, 16), int("cd" * 8, 16))
    assert dict(span.attributes or {}) == {
        "gen_ai.request.model": "small",
        "evenflow.request_id": "r1",
        "evenflow.tenant": "acme",
        "evenflow.workload_class": "interactive",
        "evenflow.endpoint": A,
        "evenflow.hedge.not_hedged": "off",
    }
    decision = shared.requests.find("r1").decision
    assert decision is not None
    assert decision.trace_id == "ab" * 16


@pytest.mark.parametrize("traceparent", [f"{TRACEPARENT}00", "junk", ""])
def test_what_is_not_sampled_gets_no_span(spans: InMemorySpanExporter, traceparent: str) -> None:
    answer(check_request(traceparent=traceparent))

    assert spans.get_finished_spans() == ()
