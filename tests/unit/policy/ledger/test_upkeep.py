"""What routers that are gone held is given up, but never because policy itself was away."""

import asyncio
from collections.abc import Mapping

import pytest

from services.policy.core.ledger import Account
from services.policy.outbound.database import DatabaseUnreachable
from services.policy.outbound.upkeep import RECOVERED_S, RELEASE_EVERY_S, Upkeep, keep_up
from tests import virtual_time

UPKEEP = Upkeep(longest_request_s=10.0, keep_s=1000.0)


class Books:
    def __init__(self) -> None:
        self.is_away = False
        self.released_at_s: list[float] = []
        self.pruned_before: list[float] = []

    async def answer(self) -> None:
        if self.is_away:
            raise DatabaseUnreachable

    async def release(
        self, *, longest_request_s: float, now_unix_s: float
    ) -> Mapping[str, Mapping[Account, int]]:
        assert longest_request_s == UPKEEP.longest_request_s
        self.released_at_s.append(asyncio.get_running_loop().time())
        return {"r1": {Account("acme/day", 0): 5}, "r2": {}}

    async def prune(self, before_unix_s: float) -> int:
        self.pruned_before.append(before_unix_s)
        return 0


def kept_up(for_s: float, *, away: tuple[float, float] | None = None) -> Books:
    books = Books()

    async def scenario() -> None:
        now_s = asyncio.get_running_loop().time
        task = asyncio.get_running_loop().create_task(
            keep_up(books, UPKEEP, lambda: 2000.0 + now_s())
        )
        while now_s() < for_s:
            books.is_away = away is not None and away[0] <= now_s() < away[1]
            await asyncio.sleep(1.0)
        task.cancel()

    virtual_time.run(scenario())
    return books


def test_nothing_is_released_until_routers_had_time_to_come_back() -> None:
    books = kept_up(RECOVERED_S + 2 * RELEASE_EVERY_S)

    assert books.released_at_s[0] >= RECOVERED_S
    assert len(books.released_at_s) >= 2


@pytest.mark.parametrize("back_at_s", [100.0, 200.0])
def test_an_outage_of_the_database_begins_that_time_anew(back_at_s: float) -> None:
    books = kept_up(back_at_s + RECOVERED_S + 20, away=(90.0, back_at_s))

    after = [at for at in books.released_at_s if at > 90.0 + RELEASE_EVERY_S]
    assert after[0] >= back_at_s + RECOVERED_S - RELEASE_EVERY_S


def test_old_attempts_are_forgotten_once_an_hour() -> None:
    books = kept_up(3700.0)

    assert books.pruned_before[0] == 1000.0
    assert len(books.pruned_before) == 2
