"""Follows other routers of the same runtimes: what each gives to whom, who waits there, and what
counts to limits."""

import asyncio
import math
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Protocol

import structlog

from evenflow.router.v1 import peer_service_pb2 as pb
from evenflow.router.v1.peer_service_pb2_grpc import PeerServiceStub
from services.chassis.identity import TlsFiles, channel
from services.router.core.bands import Band
from services.router.core.exchange import Account, Change, Peer, PeerWord
from services.router.core.lanes import Lane
from services.router.core.limit_words import LimitPeer, Minute, Told
from services.router.core.limits import Taken
from services.router.core.silence import Silence
from services.router.outbound.hearing import while_heard

_CONNECT_S = 3.0  # for the TLS handshake and the first word
_SILENCE_S = 1.0  # it speaks every 0.3 s
_BANDS = {
    pb.PRIORITY_BAND_INTERACTIVE: Band.INTERACTIVE,
    pb.PRIORITY_BAND_BATCH: Band.BATCH,
}
_log = structlog.get_logger(__name__)


class OtherRouter(Protocol):
    address: str

    def words(self) -> AsyncGenerator[PeerWord, None]:
        """All at once, then what changes, and a sign of life at least every 300 ms.

        Raises grpc.aio.AioRpcError or OSError when it can't be reached.
        """


class GrpcRouter:
    def __init__(self, address: str, tls: TlsFiles) -> None:
        self.address = address
        self._tls = tls

    async def words(self) -> AsyncGenerator[PeerWord, None]:
        async with channel(self.address, self._tls, server="router") as opened:
            call = PeerServiceStub(opened).WatchServed(pb.WatchServedRequest())
            try:
                async for response in call:
                    yield _word(response)
            finally:
                call.cancel()  # a no-op once the stream has ended


class PeerFollower:
    """Passes what one peer tells to `changed` and `limits`. A list of peers may name ourselves:
    `own_id`."""

    def __init__(
        self, own_id: str, changed: Callable[[list[Change]], None], limits: LimitPeer
    ) -> None:
        self._own_id = own_id
        self.limits = limits
        self._changed = changed
        self._peer = Peer()
        self.is_heard = False

    async def follow(self, router: OtherRouter) -> None:
        """Until the stream ends, fails, or falls silent; nobody waits there then.

        Raises:
            TimeoutError: nothing came for longer than a living router is silent.
        """
        clock = asyncio.get_running_loop().time
        silence = Silence(limit_s=_CONNECT_S, now_s=clock())
        try:
            async with while_heard(silence), aclosing(router.words()) as words:
                async for word in words:
                    silence.heard(limit_s=_SILENCE_S)
                    if word.instance_id != self._own_id:
                        self._heard(router, word, clock())
        finally:
            if self.is_heard:
                _log.warning("peer.lost", peer=router.address)
            self.is_heard = False
            self.limits.lost(clock())
            self._changed(self._peer.lost(clock()))

    def _heard(self, router: OtherRouter, word: PeerWord, now_s: float) -> None:
        if not self.is_heard:
            _log.info("peer.heard", peer=router.address)
        self.is_heard = True
        self.limits.heard(word.instance_id, word.taken, word.minutes, now_s)
        self._changed(self._peer.heard(word, now_s))


def _word(response: pb.WatchServedResponse) -> PeerWord:
    accounts = (
        Account(
            Lane(each.model, each.pool), _BANDS[each.band], each.tenant, each.served, each.waiting
        )
        for each in response.accounts
        if each.band in _BANDS and math.isfinite(each.served)
    )
    taken = tuple(_told(each) for each in response.taken)
    minutes = tuple(
        Minute(each.tenant, tuple(each.requests), tuple(each.tokens)) for each in response.minutes
    )
    return PeerWord(response.instance_id, tuple(accounts), taken, minutes)


def _told(account: pb.TakenAccount) -> Told:
    taken = Taken(account.requests, account.tokens, account.running, account.blocks)
    return Told(account.tenant, Lane(account.model, account.pool), taken)
