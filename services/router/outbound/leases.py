"""What this router holds of budgets: asks for more, gives idle back, hears what was used.

One request is under way at a time; one whose answer was lost is sent again as it was, and policy
answers it as it did.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any, Protocol

import grpc
import structlog

from evenflow.policy.v1 import ledger_service_pb2 as pb
from evenflow.policy.v1.ledger_service_pb2_grpc import LedgerServiceStub
from services.chassis.identity import TlsFiles, channel
from services.router.core.budgets import Account
from services.router.core.purse import Batch, Granted, Purse, Want

SILENCE_S = 10.0  # policy says something at least every 5 s
LAST_WORDS_S = 0.5
_GATHER_S = 0.01  # requests of a burst are asked for together
_SWEEP_EVERY_S = 2.0
_log = structlog.get_logger(__name__)


class Holder(Protocol):
    """Who holds slices for this router's requests. `router` names this process in the ledger."""

    router: str
    purse: Purse
    stirred: Callable[[], None]  # to be called when the purse may want something

    def reached(self) -> None:
        """Policy answers from now on."""

    def granted(self, grants: Sequence[Granted], now_s: float) -> None:
        """What policy answered; nothing, where it told of settlements alone."""

    def lost(self) -> None:
        """Policy does not answer."""

    def forgotten(self) -> None:
        """Policy has taken back what this router held; `router` is another name from now on."""


class Ledger(Protocol):
    def lease(
        self, requests: AsyncIterator[pb.LeaseRequest]
    ) -> AsyncGenerator[pb.LeaseResponse, None]:
        """Raises grpc.aio.AioRpcError or OSError when policy can't be reached."""


class GrpcLedger:
    def __init__(self, address: str, tls: TlsFiles) -> None:
        self._address = address
        self._tls = tls

    async def lease(
        self, requests: AsyncIterator[pb.LeaseRequest]
    ) -> AsyncGenerator[pb.LeaseResponse, None]:
        async with channel(self._address, self._tls, server="policy") as opened:
            call = LedgerServiceStub(opened).Lease(requests)
            try:
                async for each in call:
                    yield each
            finally:
                call.cancel()  # a no-op once the stream has ended


class _Talk:
    """One stream: gRPC may ask for more of it after it has ended, and must get nothing."""

    def __init__(self) -> None:
        self.is_over = False
        self._answered = asyncio.Event()

    def answered(self) -> None:
        self._answered.set()

    def end(self) -> None:
        self.is_over = True
        self._answered.set()

    async def answer(self) -> None:
        await self._answered.wait()
        self._answered.clear()


class LeaseFollower:
    """`clock` is the event loop's."""

    def __init__(self, holder: Holder, clock: Callable[[], float]) -> None:
        self._holder = holder
        self._purse = holder.purse
        self._clock = clock
        self._stirred = asyncio.Event()
        self._sequence = 0
        self._heard = 0  # the last settlement
        self._asked: pb.LeaseRequest | None = None  # and not answered yet
        self._ending = False
        self._ended = asyncio.Event()
        self._swept_at_s = 0.0
        self._connected = False
        holder.stirred = self._stirred.set

    async def follow(self, ledger: Ledger) -> None:
        """Until the stream ends or fails, or nothing was heard for SILENCE_S."""
        talk = _Talk()
        try:
            async with aclosing(ledger.lease(self._requests(talk))) as answers:
                while True:
                    async with asyncio.timeout(SILENCE_S):
                        response = await anext(answers, None)
                    if response is None:
                        return
                    self._hear(response, talk)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
                self._begin_anew()
            raise
        finally:
            talk.end()
            self._stirred.set()
            self._connected = False
            self._holder.lost()

    async def give_all_back(self) -> None:
        """For a router that ends. Returns when policy has it, or is not to be had."""
        if not self._connected:
            return
        self._ending = True
        self._stirred.set()
        try:
            async with asyncio.timeout(LAST_WORDS_S):
                await self._ended.wait()
        except TimeoutError:
            _log.warning("leases.kept", why="policy did not answer in time")

    def _begin_anew(self) -> None:
        _log.error("leases.forgotten", why="policy took this router for gone")
        self._holder.forgotten()
        self._sequence = self._heard = 0
        self._asked = None

    async def _requests(self, talk: _Talk) -> AsyncIterator[pb.LeaseRequest]:
        asked = self._asked or self._next(Batch())
        asked.heard = self._heard
        while True:
            self._asked = asked
            yield asked
            await talk.answer()
            if self._ending:
                break
            batch = await self._batch(talk)
            if talk.is_over:
                return
            asked = self._next(batch)
        self._asked = self._next(self._purse.all_idle())
        yield self._asked
        await talk.answer()
        self._ended.set()

    async def _batch(self, talk: _Talk) -> Batch:
        """Something to say; nothing, where this router or the stream ends."""
        while not self._ending and not talk.is_over:
            if self._clock() >= self._swept_at_s + _SWEEP_EVERY_S:
                self._swept_at_s = self._clock()
                self._purse.sweep(self._clock())
            if batch := self._purse.batch(self._clock()):
                return batch
            await self._stir(talk)
        return Batch()

    async def _stir(self, talk: _Talk) -> None:
        self._stirred.clear()
        try:
            async with asyncio.timeout(_SWEEP_EVERY_S):
                await self._stirred.wait()
        except TimeoutError:
            return
        if not self._ending and not talk.is_over:
            await asyncio.sleep(_GATHER_S)

    def _next(self, batch: Batch) -> pb.LeaseRequest:
        self._sequence += 1
        return pb.LeaseRequest(
            router=self._holder.router,
            sequence=self._sequence,
            wants=[pb.Want(account=_account(each), units=each.units) for each in batch.wants],
            returns=[pb.Return(account=_account(each), units=each.units) for each in batch.returns],
            heard=self._heard,
        )

    def _hear(self, response: pb.LeaseResponse, talk: _Talk) -> None:
        if not self._connected:
            self._connected = True
            self._holder.reached()
            _log.info("ledger.reached")
        for each in response.settlements:
            self._heard = each.number
            self._settled(each)
        if response.HasField("settled_until"):
            self._purse.settled_until(response.settled_until.ToMicroseconds() / 1e6)
        is_answer = self._asked is not None and response.sequence == self._asked.sequence
        grants = [_granted(each) for each in response.grants] if is_answer else ()
        self._holder.granted(grants, self._clock())
        if is_answer:
            self._asked = None
            talk.answered()
        self._stirred.set()

    def _settled(self, settlement: pb.Settlement) -> None:
        number = settlement.reservation.rpartition(".")[2]
        used = {_key(each.account): each.units for each in settlement.charges}
        self._purse.settled(int(number), settlement.attempt, used)


def _account(want: Want) -> pb.Account:
    budget, start_unix_s = want.account
    return pb.Account(budget=budget, window_start_unix_s=start_unix_s)


def _key(account: Any) -> Account:
    return account.budget, account.window_start_unix_s


def _granted(grant: pb.Grant) -> Granted:
    return Granted(_key(grant.account), grant.units, scarce=grant.scarce, low=grant.low)
