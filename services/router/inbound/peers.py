"""Tells other routers what this one gives to whom, who waits here, and what counts to limits."""

import asyncio
from collections.abc import AsyncIterator

import grpc

from evenflow.router.v1 import peer_service_pb2 as pb
from evenflow.router.v1 import peer_service_pb2_grpc as pb_grpc
from services.chassis.callers import AllowedCallers
from services.router.core.bands import Band
from services.router.core.exchange import Account, PeerWord, Queues, Telling
from services.router.core.limit_words import LimitTelling, Minute, Told
from services.router.core.limits import Limiting

SERVICE: str = pb.DESCRIPTOR.services_by_name["PeerService"].full_name
CALLERS: AllowedCallers = {f"/{SERVICE}/": frozenset({"router"})}

_LOOK_EVERY_S = 0.1
_SAY_EVERY_S = 0.2  # silence means that it is away
_BANDS = {
    Band.INTERACTIVE: pb.PRIORITY_BAND_INTERACTIVE,
    Band.BATCH: pb.PRIORITY_BAND_BATCH,
}


class PeerServicer(pb_grpc.PeerServiceServicer):
    def __init__(self, instance_id: str, queues: Queues, limiting: Limiting) -> None:
        self._instance_id = instance_id
        self._queues = queues
        self._limiting = limiting
        self._stopping = asyncio.Event()

    def close(self) -> None:
        """Ends all streams, so that peers know at once and a drain need not wait for them."""
        self._stopping.set()

    async def WatchServed(  # noqa: N802 - the name is the proto's
        self, request: pb.WatchServedRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.WatchServedResponse]:
        clock, telling = asyncio.get_running_loop().time, Telling(self._queues)
        limits = LimitTelling(self._limiting)
        silent_since_s = clock() - _SAY_EVERY_S
        while not self._stopping.is_set():
            word = PeerWord(
                self._instance_id, telling.accounts(), limits.taken(), limits.minutes(clock())
            )
            if word.accounts or word.taken or clock() - silent_since_s >= _SAY_EVERY_S:
                silent_since_s = clock()
                yield encoded(word)
            await self._wait(_LOOK_EVERY_S)

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return


def encoded(word: PeerWord) -> pb.WatchServedResponse:
    return pb.WatchServedResponse(
        instance_id=word.instance_id,
        accounts=map(_account, word.accounts),
        taken=map(_taken, word.taken),
        minutes=map(_minute, word.minutes),
    )


def _account(account: Account) -> pb.ServedAccount:
    return pb.ServedAccount(
        model=account.lane.model,
        pool=account.lane.pool,
        band=_BANDS[account.band],
        tenant=account.tenant,
        served=account.served,
        waiting=account.waits,
    )


def _taken(told: Told) -> pb.TakenAccount:
    return pb.TakenAccount(
        tenant=told.tenant,
        model=told.lane.model,
        pool=told.lane.pool,
        requests=told.taken.requests,
        tokens=told.taken.tokens,
        running=told.taken.running,
        blocks=told.taken.blocks,
    )


def _minute(minute: Minute) -> pb.CountedMinute:
    return pb.CountedMinute(tenant=minute.tenant, requests=minute.requests, tokens=minute.tokens)
