"""A real OTLP/gRPC receiver that keeps what it gets."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_pb
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_pb_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as pb_grpc


@dataclass(frozen=True, slots=True)
class Span:
    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str


class Receiver(pb_grpc.TraceServiceServicer, metrics_pb_grpc.MetricsServiceServicer):
    def __init__(self) -> None:
        self.address = ""
        self._bytes: list[bytes] = []
        self._spans: list[Span] = []
        self._changed = threading.Condition()

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        with self._changed:
            self._bytes.append(request.SerializeToString())
            if isinstance(request, metrics_pb.ExportMetricsServiceRequest):
                return metrics_pb.ExportMetricsServiceResponse()
            self._spans += _spans(request)
            self._changed.notify_all()
        return pb.ExportTraceServiceResponse()

    def wait_for(
        self, trace_id: str, reached: Callable[[Sequence[Span]], bool], within_s: float = 15.0
    ) -> Sequence[Span]:
        """The spans of one trace, once `reached` holds for them."""

        def found() -> Sequence[Span]:
            return [span for span in self._spans if span.trace_id == trace_id]

        with self._changed:
            assert self._changed.wait_for(lambda: reached(found()), within_s), found()
            return found()

    def everything(self) -> bytes:
        with self._changed:
            return b"".join(self._bytes)


@contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver()
    server = grpc.server(ThreadPoolExecutor(4))
    traces: Any = pb_grpc  # untyped, both
    metrics: Any = metrics_pb_grpc
    traces.add_TraceServiceServicer_to_server(receiver, server)
    metrics.add_MetricsServiceServicer_to_server(receiver, server)
    receiver.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield receiver
    finally:
        server.stop(None).wait()


def _spans(request: Any) -> Iterator[Span]:
    for resource in request.resource_spans:
        names = {each.key: each.value.string_value for each in resource.resource.attributes}
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Span(
                    service=names.get("service.name", ""),
                    name=span.name,
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                )
