"""Receives OTLP spans from Envoy and the services, and takes out what must not leave the mesh."""

from collections.abc import Iterator
from typing import Any, Protocol

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as pb_grpc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from services.telemetry.core.wall import may_leave

SERVICE: str = pb.DESCRIPTOR.services_by_name["TraceService"].full_name


class SpanSink(Protocol):
    def offer(self, request: pb.ExportTraceServiceRequest, *, spans: int) -> None:
        """Takes it, or leaves it; never blocks."""


class TraceServicer(pb_grpc.TraceServiceServicer):
    def __init__(self, sink: SpanSink) -> None:
        self._sink = sink
        self.received = 0
        self.walled_off = 0  # attributes and events taken out

    async def Export(  # noqa: N802 - the name is the proto's
        self, request: pb.ExportTraceServiceRequest, context: grpc.aio.ServicerContext
    ) -> pb.ExportTraceServiceResponse:
        spans = sum(
            len(scope.spans) for each in request.resource_spans for scope in each.scope_spans
        )
        self.received += spans
        self.walled_off += wall_off(request)
        self._sink.offer(request, spans=spans)
        return pb.ExportTraceServiceResponse()


def wall_off(request: pb.ExportTraceServiceRequest) -> int:
    """Removes in place what may not leave, and returns how many attributes and events went."""
    return sum(_remove(attributes) for attributes in _attribute_lists(request))


def _attribute_lists(request: pb.ExportTraceServiceRequest) -> Iterator[Any]:
    for each in request.resource_spans:
        yield each.resource.attributes
        for scope in each.scope_spans:
            yield scope.scope.attributes
            for span in scope.spans:
                yield span.attributes
                yield span.events
                yield from (event.attributes for event in span.events)
                yield from (link.attributes for link in span.links)


def _remove(named: Any) -> int:
    """Of a repeated field whose messages have a `key` (attributes) or a `name` (events)."""
    removed = 0
    for index in range(len(named) - 1, -1, -1):
        each = named[index]
        if not may_leave(each.name if hasattr(each, "name") else each.key):
            del named[index]
            removed += 1
        elif hasattr(each, "value"):
            removed += _remove_inside(each.value)
    return removed


def _remove_inside(value: AnyValue) -> int:
    match value.WhichOneof("value"):
        case "kvlist_value":
            return _remove(value.kvlist_value.values)
        case "array_value":
            return sum(_remove_inside(each) for each in value.array_value.values)
    return 0
