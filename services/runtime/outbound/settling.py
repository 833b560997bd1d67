"""Tells policy what each attempt took, from the journal: LedgerService.Settle."""

import asyncio
import random
from contextlib import suppress
from typing import Any, NoReturn

from evenflow.policy.v1 import ledger_service_pb2 as pb
from evenflow.policy.v1.ledger_service_pb2_grpc import LedgerServiceStub
from services.chassis.identity import TlsFiles, channel
from services.chassis.streams import keep_open
from services.runtime.outbound.journal import FileJournal

_GATHER_S = 0.05  # ends wait for company: each message costs policy a transaction
_SAY_EVERY_S = 1.0  # how long routers may wait to hear that there is nothing to wait for
_ANSWER_WITHIN_S = 5.0  # else the stream is begun anew, and all that is not booked told again
_MOST_ATTEMPTS = 500  # in one message; some 200 KB


class Reporter:
    """One message at a time, each answered before the next. `endpoint`: where routers reach us."""

    def __init__(self, journal: FileJournal, address: str, tls: TlsFiles, *, endpoint: str) -> None:
        self._journal = journal
        self._address = address
        self._tls = tls
        self._endpoint = endpoint

    async def run(self, jitter: random.Random) -> NoReturn:
        """Until it is cancelled."""
        await keep_open(self._once, what="ledger", jitter=jitter)

    async def flushed(self) -> None:
        """Returns when policy has booked all that ended."""
        while not self._journal.reported:  # noqa: ASYNC110 - at the end of the process only
            await asyncio.sleep(_GATHER_S)

    async def _once(self) -> None:
        async with channel(self._address, self._tls, server="policy") as opened:
            stub: Any = LedgerServiceStub(opened)  # grpc-stubs types only the synchronous one
            call = stub.Settle()
            try:
                while not call.done():
                    self._journal.changed.clear()
                    request = self._request()
                    async with asyncio.timeout(_ANSWER_WITHIN_S):
                        await call.write(request)
                        response = await call.read()
                    if not isinstance(response, pb.SettleResponse):
                        return  # the stream has ended
                    self._journal.booked(response.sequence)
                    if len(request.attempts) < _MOST_ATTEMPTS:
                        await self._pause()
                await call.read()  # raises what ended it
            finally:
                call.cancel()  # a no-op once the stream has ended

    def _request(self) -> pb.SettleRequest:
        attempts, until = self._journal.report(at_most=_MOST_ATTEMPTS)
        return pb.SettleRequest(
            journal=self._journal.id,
            endpoint=self._endpoint,
            attempts=attempts,
            told_until=until,
        )

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_SAY_EVERY_S):
                await self._journal.changed.wait()
        await asyncio.sleep(_GATHER_S)
