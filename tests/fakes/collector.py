"""An OTLP collector in memory, and a sink for spans."""

import asyncio

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from services.telemetry.outbound.forwarding import CollectorAway, CollectorRefused


class FakeCollector:
    """Takes spans while it is `here`; refuses each request that holds the span `disliked`."""

    def __init__(self, *, disliked: str = "") -> None:
        self.here = True
        self.taken: list[str] = []  # names of spans, in order
        self.took = asyncio.Event()
        self._disliked = disliked

    async def export(self, request: ExportTraceServiceRequest) -> None:
        if not self.here:
            raise CollectorAway("gone fishing")
        names = names_of(request)
        if self._disliked in names:
            raise CollectorRefused("not to my taste")
        self.taken += names
        self.took.set()


class FakeSink:
    def __init__(self) -> None:
        self.taken: list[tuple[ExportTraceServiceRequest, int]] = []

    def offer(self, request: ExportTraceServiceRequest, *, spans: int) -> None:
        self.taken.append((request, spans))


def names_of(request: ExportTraceServiceRequest) -> list[str]:
    return [
        span.name
        for each in request.resource_spans
        for scope in each.scope_spans
        for span in scope.spans
    ]
