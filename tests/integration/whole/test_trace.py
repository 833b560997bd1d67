"""One trace across the whole way, received by a real OTLP receiver; and no prompt anywhere."""

import asyncio
from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from evenflow.client import Client, chat_request
from tests.integration.whole.mesh import Mesh
from tests.integration.whole.receiver import Receiver, Span

SECRET = "xylophone-zeppelin-42"


def traced_request(mesh: Mesh, receiver: Receiver) -> str:
    """Asks once inside a client's span; returns the trace id."""
    provider = TracerProvider(resource=Resource.create({"service.name": "test-client"}))
    exporter = OTLPSpanExporter(endpoint=f"http://{receiver.address}", insecure=True)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with provider.get_tracer("test").start_as_current_span("ask") as span:
        trace_id = f"{span.get_span_context().trace_id:032x}"

        async def ask() -> None:
            async with Client(mesh.address, certificate_folder=mesh.tenant("acme")) as client:
                async for _ in client.generate(chat_request(mesh.model, SECRET), deadline_s=30):
                    pass

        asyncio.run(ask())
    provider.shutdown()
    return trace_id


def roots(spans: Sequence[Span]) -> list[str]:
    """Names of the spans whose parent is not among them."""
    ids = {span.span_id for span in spans}
    return [span.name for span in spans if span.parent_id not in ids]


def test_client_envoy_router_runtime_and_engine_share_one_trace(
    real_mesh: Mesh, receiver: Receiver
) -> None:
    trace_id = traced_request(real_mesh, receiver)

    wanted = {"test-client", "evenflow-gateway", "evenflow-router", "evenflow-runtime"}
    spans = receiver.wait_for(
        trace_id,
        lambda spans: roots(spans) == ["ask"] and wanted <= {span.service for span in spans},
    )
    assert any("engine" in span.name for span in spans)


def test_no_prompt_or_answer_in_spans_logs_or_metrics(real_mesh: Mesh, receiver: Receiver) -> None:
    trace_id = traced_request(real_mesh, receiver)
    receiver.wait_for(trace_id, lambda spans: len({span.service for span in spans}) >= 4)

    assert SECRET.encode() not in receiver.everything()
    for log in (real_mesh.home / "logs").iterdir():
        assert SECRET.encode() not in log.read_bytes(), log.name
    assert SECRET not in real_mesh.metrics()
