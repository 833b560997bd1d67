"""Policy's ledger as runtimes see it: books each attempt once. A real server that can fail.

Its books outlive it, as policy's database does: `open` another one on the same.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc

from evenflow.policy.v1 import ledger_service_pb2 as pb
from evenflow.policy.v1.ledger_service_pb2_grpc import (
    LedgerServiceServicer,
    add_LedgerServiceServicer_to_server,
)
from services.chassis.identity import TlsFiles, server_credentials

PATIENCE_S = 20.0


@dataclass(slots=True)
class Books:
    """What is booked for good. `sequences`: by journal, of the last."""

    attempts: dict[tuple[str, int], pb.AttemptUsage] = field(default_factory=dict)
    sequences: dict[str, int] = field(default_factory=dict)
    spent: dict[tuple[str, int], int] = field(default_factory=dict)
    told_until: dict[str, float] = field(default_factory=dict)
    gaps: list[tuple[int, int]] = field(default_factory=list)  # expected, came
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def book(self, request: pb.SettleRequest) -> int:
        for each in request.attempts:
            last = self.sequences.get(request.journal, 0)
            if each.sequence <= last:
                continue
            if each.sequence != last + 1:
                self.gaps.append((last + 1, each.sequence))
            self.sequences[request.journal] = each.sequence
            self._count(each)
        until = request.told_until.ToMicroseconds() / 1e6
        if until:  # 0: it has more to say
            before = self.told_until.get(request.journal, 0.0)
            self.told_until[request.journal] = max(before, until)
        return self.sequences.setdefault(request.journal, 0)

    def _count(self, attempt: pb.AttemptUsage) -> None:
        if (attempt.reservation, attempt.attempt) in self.attempts:
            return
        self.attempts[attempt.reservation, attempt.attempt] = attempt
        for charge in attempt.charges:
            key = (charge.account.budget, charge.account.window_start_unix_s)
            self.spent[key] = self.spent.get(key, 0) + charge.units

    async def until(self, condition: Callable[["Books"], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition(self):
                self.changed.clear()
                await self.changed.wait()

    async def of(self, number: int) -> list[pb.AttemptUsage]:
        await self.until(lambda books: len(books.attempts) >= number)
        return [*self.attempts.values()]


@dataclass(slots=True)
class Faults:
    """`forgets`: books, and this many answers are lost with their streams; `mute`: books, and says
    nothing; `repeats`: says everything twice; `behind`: this much of what is booked is not said."""

    forgets: int = 0
    repeats: bool = False
    mute: bool = False
    behind: int = 0


class Ledger(LedgerServiceServicer):
    def __init__(self, books: Books, faults: Faults | None = None) -> None:
        self.books = books
        self.faults = faults or Faults()
        self.requests: list[pb.SettleRequest] = []
        self.streams = 0

    async def Settle(  # noqa: N802 - the name is the proto's
        self, request: AsyncIterator[pb.SettleRequest], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.SettleResponse]:
        self.streams += 1
        async for each in request:
            self.requests.append(each)
            sequence = self.books.book(each)
            self.books.changed.set()
            if self.faults.forgets:
                self.faults.forgets -= 1
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the answer is lost")
            if self.faults.mute:
                continue
            for _ in range(2 if self.faults.repeats else 1):
                yield pb.SettleResponse(sequence=max(0, sequence - self.faults.behind))

    async def Lease(  # noqa: N802 - the name is the proto's
        self, request: AsyncIterator[pb.LeaseRequest], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.LeaseResponse]:
        """Runtimes don't call it."""
        for _ in ():
            yield pb.LeaseResponse()

    async def ListBudgets(  # noqa: N802 - the name is the proto's
        self, request: pb.ListBudgetsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListBudgetsResponse:
        """Nor this."""
        return pb.ListBudgetsResponse()

    async def ForgetRuntime(  # noqa: N802 - the name is the proto's
        self, request: pb.ForgetRuntimeRequest, context: grpc.aio.ServicerContext
    ) -> pb.ForgetRuntimeResponse:
        """Nor this."""
        return pb.ForgetRuntimeResponse()


@asynccontextmanager
async def listening(ledger: Ledger, tls: TlsFiles, *, port: int = 0) -> AsyncIterator[str]:
    """Yields where; dead when left."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    add_LedgerServiceServicer_to_server(ledger, server)
    bound = server.add_secure_port(f"127.0.0.1:{port}", server_credentials(tls))
    await server.start()
    try:
        yield f"127.0.0.1:{bound}"
    finally:
        await server.stop(None)
