"""Tells telemetry how many endpoints are in each state, and how many requests wait.

So that somebody hears of an endpoint that hangs and of a queue that grows.
Apart from the records: what is said here holds until it is said otherwise.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass

from evenflow.telemetry.v1 import endpoint_service_pb2 as pb
from evenflow.telemetry.v1.endpoint_service_pb2_grpc import EndpointServiceStub
from services.chassis.identity import TlsFiles, channel
from services.router.core.bands import Band
from services.router.core.endpoints import Endpoints, Standing

_LOOK_EVERY_S = 0.25
_NUMBERS = {
    Standing.UNREACHABLE: pb.ENDPOINT_STATE_UNREACHABLE,
    Standing.DRAINING: pb.ENDPOINT_STATE_DRAINING,
    Standing.STALLED: pb.ENDPOINT_STATE_STALLED,
    Standing.READY: pb.ENDPOINT_STATE_READY,
    Standing.LOADING: pb.ENDPOINT_STATE_LOADING,
    Standing.FAILED: pb.ENDPOINT_STATE_FAILED,
}

_BANDS = {
    Band.INTERACTIVE: pb.PRIORITY_BAND_INTERACTIVE,
    Band.BATCH: pb.PRIORITY_BAND_BATCH,
}


@dataclass(frozen=True, slots=True)
class Counts:
    endpoints: Mapping[Standing, int]
    queued: Mapping[Band, int]


async def counts(
    endpoints: Endpoints, depths: Callable[[], Mapping[Band, int]] = dict
) -> AsyncIterator[Counts]:
    """At once, and on each change. `depths`: of the queue. Ends by cancellation alone."""
    said: Counts | None = None
    while True:
        now = Counts(Counter(each.standing for each in endpoints.all()), depths())
        if now != said:
            yield now
            said = now
        await asyncio.sleep(_LOOK_EVERY_S)


class GrpcEndpointStates:
    def __init__(self, address: str, tls: TlsFiles) -> None:
        self._address = address
        self._tls = tls

    async def report(self, counts: AsyncIterator[Counts]) -> None:
        """Sends until they end.

        Raises grpc.aio.AioRpcError or OSError when telemetry can't be reached.
        """
        async with channel(self._address, self._tls, server="telemetry") as opened:
            await EndpointServiceStub(opened).ReportEndpoints(_messages(counts))


async def _messages(counts: AsyncIterator[Counts]) -> AsyncIterator[pb.ReportEndpointsRequest]:
    async for each in counts:
        yield pb.ReportEndpointsRequest(counts=_states(each), queues=_queues(each))


def _states(counts: Counts) -> Iterable[pb.EndpointCount]:
    return (
        pb.EndpointCount(state=_NUMBERS[standing], endpoints=number)
        for standing, number in counts.endpoints.items()
    )


def _queues(counts: Counts) -> Iterable[pb.QueueDepth]:
    return (
        pb.QueueDepth(band=_BANDS[band], requests=number)
        for band, number in counts.queued.items()
        if number
    )
