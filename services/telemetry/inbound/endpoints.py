"""Takes what routers know of their endpoints: how many are in each state, while they say so."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping

import grpc

from evenflow.telemetry.v1 import endpoint_service_pb2 as pb
from evenflow.telemetry.v1 import endpoint_service_pb2_grpc as pb_grpc
from services.chassis.logs import add_facts

SERVICE: str = pb.DESCRIPTOR.services_by_name["EndpointService"].full_name

STATES = {  # what a newer router calls a state that we don't know is left out
    pb.ENDPOINT_STATE_UNREACHABLE: "unreachable",
    pb.ENDPOINT_STATE_DRAINING: "draining",
    pb.ENDPOINT_STATE_STALLED: "stalled",
    pb.ENDPOINT_STATE_READY: "ready",
    pb.ENDPOINT_STATE_LOADING: "loading",
    pb.ENDPOINT_STATE_FAILED: "failed",
}


class EndpointServicer(pb_grpc.EndpointServiceServicer):
    """The last word of each stream that is open."""

    def __init__(self) -> None:
        self._words: dict[asyncio.Timeout, Mapping[str, int]] = {}

    def counts(self) -> Mapping[str, int]:
        """Of every state, over all routers; empty while no router reports."""
        if not any(self._words.values()):
            return {}
        totals = Counter(dict.fromkeys(STATES.values(), 0))
        for word in self._words.values():
            totals.update(word)
        return totals

    def close(self) -> None:
        """Answers all streams, which would otherwise last as long as their routers."""
        for stream in self._words:
            stream.reschedule(asyncio.get_running_loop().time())

    async def ReportEndpoints(  # noqa: N802 - the name is the proto's
        self,
        request_iterator: AsyncIterator[pb.ReportEndpointsRequest],
        context: grpc.aio.ServicerContext,
    ) -> pb.ReportEndpointsResponse:
        stream = asyncio.timeout(None)
        try:
            async with stream:
                self._words[stream] = {}
                async for request in request_iterator:
                    self._words[stream] = _word(request)
        except TimeoutError:
            add_facts(ended_by="drain")
        finally:
            self._words.pop(stream, None)
        return pb.ReportEndpointsResponse()


def _word(request: pb.ReportEndpointsRequest) -> Mapping[str, int]:
    return {
        STATES[each.state]: max(0, each.endpoints)
        for each in request.counts
        if each.state in STATES
    }
