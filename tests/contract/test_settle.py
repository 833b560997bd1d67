"""What every ledger must do for the runtimes that report to it: LedgerService.Settle, by its wire.

A ledger is the fake's today; the real one joins by another `place`.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest

from evenflow.policy.v1 import ledger_service_pb2 as pb
from evenflow.policy.v1.ledger_service_pb2_grpc import LedgerServiceStub
from services.chassis.identity import channel
from tests.fakes.ledger import Books, Ledger, listening
from tests.identities import Identities

WITHIN_S = 10.0
BUDGET = "acme/tokens"


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


@pytest.fixture
def identities(tmp_path: Path) -> Identities:
    return Identities(tmp_path)


@pytest.fixture(params=["fake"])
def place(identities: Identities) -> Place:
    return FakePlace(identities)


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
            await call.write(
                pb.SettleRequest(journal="j-1", endpoint="127.0.0.1:9101", attempts=attempts)
            )
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

