"""Tells telemetry how many endpoints are in each state, so that somebody hears of one that hangs.

Apart from the records: what is said here holds until it is said otherwise.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping

from evenflow.telemetry.v1 import endpoint_service_pb2 as pb
from evenflow.telemetry.v1.endpoint_service_pb2_grpc import EndpointServiceStub
from services.chassis.identity import TlsFiles, channel
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

Counts = Mapping[Standing, int]


async def counts(endpoints: Endpoints) -> AsyncIterator[Counts]:
    """At once, and on each change. Ends by cancellation alone."""
    said: Counts | None = None
    while True:
        now = Counter(each.standing for each in endpoints.all())
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
        yield pb.ReportEndpointsRequest(counts=_encoded(each))


def _encoded(counts: Counts) -> Iterable[pb.EndpointCount]:
    return (
        pb.EndpointCount(state=_NUMBERS[standing], endpoints=number)
        for standing, number in counts.items()
    )
