"""What is traced and logged of a request: whose it was and what it took, never what was said."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import ProxyTracerProvider
from structlog.testing import capture_logs

from services.runtime.core.simulation import Behaviour
from services.runtime.outbound.simulated import SimulatedEngine
from tests.fakes.runtime_mesh import asking, owner, running

TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"
SECRET = "xyzzyplugh"


@pytest.fixture(scope="module")
def exporter() -> Iterator[InMemorySpanExporter]:
    """OpenTelemetry takes one provider for each process, so another test's is shared."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, ProxyTracerProvider):
        provider = TracerProvider()
        trace.set_tracer_provider(provider)
    assert isinstance(provider, TracerProvider)
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield exporter
    exporter.shutdown()


def generated(folder: Path, exporter: InMemorySpanExporter) -> list[ReadableSpan]:
    async def scenario() -> None:
        engine = SimulatedEngine(Behaviour(step_s=0.001))
        async with running(folder, engine) as runtime, runtime.called_by("gateway") as stubs:
            metadata = (*owner(), ("traceparent", TRACEPARENT))
            request = asking(SECRET, max_output_tokens=3)
            async for _event in stubs.inference.Generate(request, metadata=metadata, timeout=5):
                pass

    exporter.clear()
    asyncio.run(scenario())
    return [
        span
        for span in exporter.get_finished_spans()
        if span.context is not None and trace.format_trace_id(span.context.trace_id) == TRACE
    ]


def test_the_engines_span_is_below_the_requests_in_the_callers_trace(
    tmp_path: Path, exporter: InMemorySpanExporter
) -> None:
    engine, request = generated(tmp_path, exporter)

    assert (engine.name, request.name) == ("evenflow.engine.generate", "text_completion simulated")
    assert engine.parent is not None
    assert request.context is not None
    assert engine.parent.span_id == request.context.span_id
    assert [event.name for event in engine.events] == ["gen_ai.first_token"]


def test_the_requests_span_says_what_it_took(
    tmp_path: Path, exporter: InMemorySpanExporter
) -> None:
    attributes = dict(generated(tmp_path, exporter)[1].attributes or {})

    assert attributes["gen_ai.operation.name"] == "text_completion"
    assert attributes["gen_ai.response.model"] == "simulated"
    assert attributes["gen_ai.usage.output_tokens"] == 3
    assert attributes["gen_ai.response.finish_reasons"] == ("length",)
    assert attributes["evenflow.tenant"] == "acme"
    assert attributes["evenflow.request_id"] == "r-1"


def test_neither_prompt_nor_output_is_traced_or_logged(
    tmp_path: Path, exporter: InMemorySpanExporter
) -> None:
    with capture_logs() as lines:
        spans = generated(tmp_path, exporter)

    said = json.dumps(lines, default=str) + "".join(span.to_json() for span in spans)
    assert "r-1" in said
    assert SECRET not in said
    assert "No model" not in said
