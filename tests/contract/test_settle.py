"""What every ledger must do for the runtimes that report to it: LedgerService.Settle, by its wire.

The fake and policy's own pass the same.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from evenflow.policy.v1 import ledger_service_pb2 as pb
from evenflow.policy.v1.ledger_service_pb2_grpc import LedgerServiceStub
from services.chassis.environ import address
from services.chassis.identity import channel
from services.policy.core.ledger import Account
from services.policy.core.tenants import Policy
from services.policy.inbound import ledger
from services.policy.inbound.ledger import LedgerServicer
from services.policy.main import build_server
from services.policy.outbound.books import Books as RealBooks
from services.policy.outbound.database import Database
from tests.fakes.ledger import Books, Ledger, listening
from tests.identities import Identities

WITHIN_S = 10.0
BUDGET = "acme/tokens"
POLICY = Policy("v1", [], (), "USD")


class Place(Protocol):
    def started(self) -> AbstractAsyncContextManager[str]:
        """Where it listens. Its books outlive it."""

    async def spent(self) -> int:
        """Units that are booked of BUDGET."""


class FakePlace:
    def __init__(self, identities: Identities) -> None:
        self._identities = identities
        self._books = Books()

    @asynccontextmanager
    async def started(self) -> AsyncIterator[str]:
        async with listening(Ledger(self._books), self._identities.service("policy")) as where:
            yield where

    async def spent(self) -> int:
        return sum(self._books.spent.values())


class PolicyPlace:
    """The real one, on SQLite."""

    def __init__(self, identities: Identities, folder: Path) -> None:
        self._identities = identities
        self._url = f"sqlite:///{folder}/policy.db"

    @asynccontextmanager
    async def started(self) -> AsyncIterator[str]:
        async with self._books() as books:
            servicer = LedgerServicer(books, POLICY, now_unix_s=lambda: 1e9, heartbeat_s=5.0)
            tls = self._identities.service("policy")
            server = build_server([ledger.served(servicer)], tls)
            port = server.listen(address("127.0.0.1:0"), tls)
            await server.grpc.start()
            yield f"127.0.0.1:{port}"
            await server.grpc.stop(None)

    async def spent(self) -> int:
        async with self._books() as books:
            tally = await books.tallies([Account(BUDGET, 0)])
            return sum(each.spent for each in tally.values())

    @asynccontextmanager
    async def _books(self) -> AsyncIterator[RealBooks]:
        database = Database(self._url)
        try:
            await asyncio.to_thread(database.migrate)
            yield RealBooks(database)
        finally:
            database.close()


@pytest.fixture
def identities(tmp_path: Path) -> Identities:
    return Identities(tmp_path)


@pytest.fixture(params=["fake", "policy"])
def place(request: pytest.FixtureRequest, identities: Identities, tmp_path: Path) -> Place:
    if request.param == "fake":
        return FakePlace(identities)
    return PolicyPlace(identities, tmp_path)


def ended(sequence: int, reservation: str, *, units: int = 10) -> pb.AttemptUsage:
    account = pb.Account(budget=BUDGET, window_start_unix_s=0)
    attempt = pb.AttemptUsage(
        sequence=sequence,
        reservation=reservation,
        attempt=1,
        charges=[pb.Charge(account=account, units=units)],
    )
    attempt.ended_at.FromSeconds(1_700_000_000)
    return attempt


def settled(
    place: Place, identities: Identities, *requests: Sequence[pb.AttemptUsage]
) -> list[int]:
    """What it answers to each, on one stream."""
    return asyncio.run(_settled(place, identities, requests))


async def _settled(
    place: Place, identities: Identities, requests: Sequence[Sequence[pb.AttemptUsage]]
) -> list[int]:
    async with (
        place.started() as where,
        channel(where, identities.service("runtime"), server="policy") as opened,
    ):
        stub: Any = LedgerServiceStub(opened)
        call = stub.Settle(timeout=WITHIN_S)
        said = []
        for attempts in requests:
            request = pb.SettleRequest(
                journal="j-1", endpoint="127.0.0.1:9101", attempts=attempts, told_until=Timestamp()
            )
            await call.write(request)
            said.append((await call.read()).sequence)
        call.cancel()
    return said


def test_a_journal_without_ends_is_answered(place: Place, identities: Identities) -> None:
    assert settled(place, identities, [], []) == [0, 0]


def test_each_end_is_booked_and_said_to_be(place: Place, identities: Identities) -> None:
    said = settled(place, identities, [ended(1, "r.1"), ended(2, "r.2")], [ended(3, "r.3")], [])

    assert said == [2, 3, 3]
    assert asyncio.run(place.spent()) == 30


def test_what_is_told_again_counts_once(place: Place, identities: Identities) -> None:
    attempts = [ended(1, "r.1"), ended(2, "r.2")]

    assert settled(place, identities, attempts, attempts) == [2, 2]
    assert settled(place, identities, attempts) == [2]
    assert asyncio.run(place.spent()) == 20


def test_it_says_after_a_restart_what_it_has(place: Place, identities: Identities) -> None:
    settled(place, identities, [ended(1, "r.1")])

    assert settled(place, identities, [], [ended(2, "r.2")]) == [1, 2]
    assert asyncio.run(place.spent()) == 20


def test_an_attempt_counts_once_under_whichever_number(
    place: Place, identities: Identities
) -> None:
    said = settled(place, identities, [ended(1, "r.1")], [ended(2, "r.1")])

    assert said == [1, 2]
    assert asyncio.run(place.spent()) == 10
