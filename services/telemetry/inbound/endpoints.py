"""Takes what routers know of their endpoints: how many are in each state, while they say so."""

from collections import Counter
from collections.abc import AsyncIterator, Mapping

import grpc

from evenflow.telemetry.v1 import endpoint_service_pb2 as pb
from evenflow.telemetry.v1 import endpoint_service_pb2_grpc as pb_grpc
from services.telemetry.inbound.open_streams import OpenStreams

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


class EndpointServicer(pb_grpc.EndpointServiceServicer):
    """The last word of each stream that is open."""

    def __init__(self) -> None:
        self._words: dict[grpc.aio.ServicerContext, Mapping[str, int]] = {}
        self._streams = OpenStreams()

    def counts(self) -> Mapping[str, int]:
        """Of every state, over all routers; empty while no router reports."""
        if not any(self._words.values()):
            return {}
        totals = Counter(dict.fromkeys(STATES.values(), 0))
        for word in self._words.values():
            totals.update(word)
        return totals

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


def _word(request: pb.ReportEndpointsRequest) -> Mapping[str, int]:
    return {
        STATES[each.state]: max(0, each.endpoints)
        for each in request.counts
        if each.state in STATES
    }
