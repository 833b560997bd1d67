"""One router's Lease stream: its requests are answered, and it is told what its attempts used."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from typing import Protocol

import structlog

from evenflow.policy.v1 import ledger_service_pb2 as pb
from services.policy.core.booking import Budgets, InvalidRequest, Lease
from services.policy.core.ledger import Account, Grant, Tally
from services.policy.core.settling import News, Report, Settled
from services.policy.inbound import ledger_messages as messages

_SAY_EVERY_S = 1.0

_log = structlog.get_logger(__name__)


class Books(Protocol):
    """What is kept of budgets. All of a call happens, or none of it."""

    async def lease(
        self, asked: Lease, budgets: Budgets, now_unix_s: float
    ) -> tuple[Grant, ...]: ...

    async def settle(self, report: Report, now_unix_s: float) -> Settled: ...

    async def seen(self, router: str, now_unix_s: float) -> None: ...

    async def news(self, router: str, after: int) -> News: ...

    async def tallies(self, wanted: Collection[Account]) -> dict[Account, Tally]: ...

    async def journals_at(self, endpoint: str) -> int: ...

    async def forget_journals(self, endpoint: str) -> int: ...


class Refusals:
    """Says that wants got nothing, seldom: routers ask again and again."""

    def __init__(self) -> None:
        self._unsaid = 0
        self._said_at_s = float("-inf")

    def note(self, asked: Lease, grants: Sequence[Grant], *, now_s: float) -> None:
        nothing = [
            account.budget
            for account, grant in zip(asked.wants, grants, strict=True)
            if not grant.units
        ]
        self._unsaid += len(nothing)
        if nothing and now_s - self._said_at_s >= _SAY_EVERY_S:
            _log.info("grants.refused", wants=self._unsaid, budget=nothing[0], router=asked.router)
            self._unsaid, self._said_at_s = 0, now_s


class Leasing:
    """`hear` and `tell` run beside each other until one of them ends."""

    def __init__(
        self,
        books: Books,
        write: Callable[[pb.LeaseResponse], Awaitable[None]],
        *,
        now_unix_s: Callable[[], float],
        heartbeat_s: float,
    ) -> None:
        self.router = ""  # until it has said so
        self.news = asyncio.Event()  # set it when an attempt of the router's was booked
        self._books = books
        self._write = write
        self._writing = asyncio.Lock()  # guards the call, which takes one message at a time
        self._now_unix_s = now_unix_s
        self._heartbeat_s = heartbeat_s
        self._begun = asyncio.Event()
        self._told = 0

    async def hear(
        self,
        requests: AsyncIterator[pb.LeaseRequest],
        budgets: Callable[[], Budgets],
        refusals: Refusals,
    ) -> None:
        async for request in requests:
            asked = self._checked(request)
            grants = await self._books.lease(asked, budgets(), self._now_unix_s())
            refusals.note(asked, grants, now_s=asyncio.get_running_loop().time())
            await self._say(messages.answer(asked, grants))
            self._begun.set()

    async def tell(self) -> None:
        """All settlements at once, then each as it comes; and that nothing came."""
        await self._begun.wait()
        while True:
            self.news.clear()
            await self._tell_all()
            try:
                async with asyncio.timeout(self._heartbeat_s):
                    await self.news.wait()
            except TimeoutError:
                await self._books.seen(self.router, self._now_unix_s())

    def _checked(self, request: pb.LeaseRequest) -> Lease:
        asked = messages.lease(request)
        if self.router not in ("", asked.router):
            raise InvalidRequest("router", f"must be {self.router} as before, got {asked.router}")
        if not self.router:
            self.router, self._told = asked.router, request.heard
        return asked

    async def _tell_all(self) -> None:
        more = True
        while more:
            news = await self._books.news(self.router, self._told)
            await self._say(messages.told(news))
            if news.settlements:
                self._told = news.settlements[-1].number
            more = news.more

    async def _say(self, message: pb.LeaseResponse) -> None:
        async with self._writing:
            await self._write(message)
