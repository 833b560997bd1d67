"""Takes what routers know: how many endpoints are in each state and how many requests wait.

It holds while they say so.
"""

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass

import grpc

from evenflow.telemetry.v1 import endpoint_service_pb2 as pb
from evenflow.telemetry.v1 import endpoint_service_pb2_grpc as pb_grpc
from services.chassis.open_streams import OpenStreams

SERVICE: str = pb.DESCRIPTOR.services_by_name["EndpointService"].full_name

STATES = {  # what a newer router calls a state that we don't know is left out
    pb.ENDPOINT_STATE_UNREACHABLE: "unreachable",
    pb.ENDPOINT_STATE_DRAINING: "draining",
    pb.ENDPOINT_STATE_STALLED: "stalled",
    pb.ENDPOINT_STATE_READY: "ready",
    pb.ENDPOINT_STATE_LOADING: "loading",
    pb.ENDPOINT_STATE_FAILED: "failed",
    pb.ENDPOINT_STATE_EJECTED: "ejected",
}


BANDS = {
    pb.PRIORITY_BAND_INTERACTIVE: "interactive",
    pb.PRIORITY_BAND_BATCH: "batch",
}


@dataclass(frozen=True, slots=True)
class _Word:
    endpoints: Mapping[str, int]  # by state
    queued: Mapping[str, int]  # by band


class EndpointServicer(pb_grpc.EndpointServiceServicer):
    """The last word of each stream that is open."""

    def __init__(self) -> None:
        self._words: dict[grpc.aio.ServicerContext, _Word] = {}
        self._streams = OpenStreams()

    def counts(self) -> Mapping[str, int]:
        """Of every state, over all routers; empty while no router reports."""
        words = [word.endpoints for word in self._words.values()]
        return _totals(STATES.values(), words) if any(words) else {}

    def queued(self) -> Mapping[str, int]:
        """Requests that wait, of every band, over all routers; empty while no router reports."""
        words = [word.queued for word in self._words.values()]
        return _totals(BANDS.values(), words) if words else {}

    def close(self) -> None:
        """Answers all streams."""
        self._streams.close()

    async def ReportEndpoints(  # noqa: N802 - the name is the proto's
        self,
        request_iterator: AsyncIterator[pb.ReportEndpointsRequest],
        context: grpc.aio.ServicerContext,
    ) -> pb.ReportEndpointsResponse:
        try:
            async with self._streams.one():
                async for request in request_iterator:
                    self._words[context] = _word(request)
        finally:
            self._words.pop(context, None)
        return pb.ReportEndpointsResponse()


def _word(request: pb.ReportEndpointsRequest) -> _Word:
    return _Word(
        {
            STATES[each.state]: max(0, each.endpoints)
            for each in request.counts
            if each.state in STATES
        },
        {BANDS[each.band]: max(0, each.requests) for each in request.queues if each.band in BANDS},
    )


def _totals(names: Iterable[str], words: Iterable[Mapping[str, int]]) -> Mapping[str, int]:
    totals = Counter(dict.fromkeys(names, 0))
    for word in words:
        totals.update(word)
    return totals
