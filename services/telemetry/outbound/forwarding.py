"""Passes spans on to an OTLP collector, in the background and never at the sender's cost."""

import asyncio
import random
from typing import NoReturn, Protocol

import structlog
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from services.telemetry.core.backlog import Backlog, Parcel

_WAIT_S = 0.1  # after a first failure; doubled with each further one
_LONGEST_WAIT_S = 5.0

_log = structlog.get_logger(__name__)


class CollectorAway(Exception):
    """The collector can't take it now; send it again later."""


class CollectorRefused(Exception):
    """The collector will never take this; drop it."""


class Collector(Protocol):
    async def export(self, request: ExportTraceServiceRequest) -> None:
        """Returns when it has been taken. May be called again with the same request.

        Raises:
            CollectorAway: unreachable, slow or overloaded.
            CollectorRefused: it does not like this request.
        """


class Forwarder:
    """A SpanSink. While the collector is away the backlog fills and its oldest spans are lost."""

    def __init__(self, collector: Collector, *, max_bytes: int, jitter: random.Random) -> None:
        self._collector = collector
        self._jitter = jitter
        self._backlog: Backlog[ExportTraceServiceRequest] = Backlog(max_bytes)
        self._filled = asyncio.Event()
        self._refused_spans = 0
        self.forwarded_spans = 0

    @property
    def dropped_spans(self) -> int:
        return self._backlog.dropped_spans + self._refused_spans

    def offer(self, request: ExportTraceServiceRequest, *, spans: int) -> None:
        self._backlog.offer(Parcel(request, spans, request.ByteSize()))
        self._filled.set()

    async def run(self) -> NoReturn:
        """Ends by cancellation alone; what waits then is lost."""
        while True:
            parcel = self._backlog.take()
            if parcel is None:
                self._filled.clear()
                await self._filled.wait()
            else:
                await self._deliver(parcel)

    async def _deliver(self, parcel: Parcel[ExportTraceServiceRequest]) -> None:
        failures = 0
        while not await self._try(parcel, first=not failures):
            ceiling_s = min(_LONGEST_WAIT_S, _WAIT_S * 2 ** min(failures, 10))
            failures += 1
            await asyncio.sleep(self._jitter.uniform(0.0, ceiling_s))
        if failures:
            _log.info("collector.back", failures=failures, dropped_spans=self.dropped_spans)

    async def _try(self, parcel: Parcel[ExportTraceServiceRequest], *, first: bool) -> bool:
        """False: try again later."""
        try:
            await self._collector.export(parcel.content)
        except CollectorAway as error:
            if first:
                _log.warning("collector.away", reason=str(error))
            return False
        except CollectorRefused as error:
            self._refused_spans += parcel.spans
            _log.warning("collector.refused", reason=str(error), dropped_spans=parcel.spans)
        else:
            self.forwarded_spans += parcel.spans
        return True


class NoForwarding:
    """A SpanSink for when nobody wants the spans."""

    forwarded_spans = 0
    dropped_spans = 0

    def offer(self, request: ExportTraceServiceRequest, *, spans: int) -> None:
        """Leaves it."""
