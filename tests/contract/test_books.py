"""SQLite and PostgreSQL keep the books as memory does: nothing is lost, nothing happens twice."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from sqlalchemy import Connection, delete, update

from deploy.local.postgres import Postgres
from services.policy.core.booking import Lease, RouterGone, Rows
from services.policy.core.ledger import Account, Grant, Tally
from services.policy.core.settling import AttemptKey, AttemptUsage, LeftOut, Report, Settled
from services.policy.core.tenants import Budget, Unit, Window
from services.policy.outbound.books import Books
from services.policy.outbound.database import Database, DatabaseUnreachable
from services.policy.outbound.ledger_rows import SqlRows
from services.policy.outbound.ledger_tables import (
    accounts,
    attempts,
    holdings,
    journals,
    routers,
    settlements,
)
from tests.spending import Spending

T = TypeVar("T")
NOW = 1_800_000_000.0
DAY = Account("acme/daily", 1_799_971_200)
BUDGETS = {"acme/daily": Budget(id="daily", unit=Unit.TOKENS, window=Window.DAY, limit=1_000)}
FEW = settings(
    max_examples=8,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


class SqlTransactions:
    """Policy's own way to the database; a restart is another process's."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._runner = asyncio.Runner()
        self._database = Database(url)
        self._runner.run(self._database.run(_emptied))

    def run(self, work: Callable[[Rows], T]) -> T:
        return self._runner.run(self._database.run(lambda connection: work(SqlRows(connection))))

    def restart(self) -> None:
        self._database.close()
        self._database = Database(self._url)

    def close(self) -> None:
        self._database.close()
        self._runner.close()


class SpendingInSql(Spending):
    def __init__(self, url: str) -> None:
        self.transactions = SqlTransactions(url)
        super().__init__(self.transactions)

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            self.transactions.close()


def _emptied(connection: Connection) -> None:
    for table in (accounts, holdings, routers, journals, attempts):
        connection.execute(delete(table))
    connection.execute(update(settlements).values(last_number=0))


@pytest.mark.usefixtures("database")
def test_no_hard_budget_is_overspent(database_url: str) -> None:
    machine: Any = partial(SpendingInSql, database_url)
    run_state_machine_as_test(machine, settings=FEW)


@pytest.fixture
def books(database: Database) -> Books:
    return Books(database)


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def asks(sequence: int, wanted: int = 0, back: int = 0, router: str = "r1") -> Lease:
    return Lease(
        router=router,
        sequence=sequence,
        wants={DAY: wanted} if wanted else {},
        returns={DAY: back} if back else {},
    )


def used(sequence: int, units: int, reservation: str = "r1.1", attempt: int = 1) -> AttemptUsage:
    key = AttemptKey(reservation, attempt)
    return AttemptUsage(sequence=sequence, key=key, charges={DAY: units}, tenant="acme")


def report(*attempts: AttemptUsage, told: float = NOW, journal: str = "j1") -> Report:
    return Report(
        journal=journal, endpoint=f"{journal}:9101", told_until_unix_s=told, attempts=attempts
    )


def test_a_repeated_request_happens_once_and_has_the_same_answer(books: Books) -> None:
    async def scenario() -> tuple[list[tuple[Grant, ...]], Tally]:
        answers = [await books.lease(asks(1, 100), BUDGETS, NOW) for _ in range(2)]
        answers.append(await books.lease(asks(2, 100, back=40), BUDGETS, NOW))
        answers.append(await books.lease(asks(2, 100, back=40), BUDGETS, NOW))
        return answers, (await books.tallies([DAY]))[DAY]

    answers, tally = run(scenario())

    assert answers == [(Grant(100),)] * 4
    assert tally == Tally(spent=0, held=160)


def test_an_attempt_counts_once_whoever_reports_it(books: Books) -> None:
    async def scenario() -> tuple[list[Settled], Tally]:
        await books.lease(asks(1, 100), BUDGETS, NOW)
        said = [
            await books.settle(report(used(1, 30)), NOW),
            await books.settle(report(used(1, 30), used(2, 5, attempt=2)), NOW),
            await books.settle(report(used(1, 30), journal="j2"), NOW),
        ]
        return said, (await books.tallies([DAY]))[DAY]

    said, tally = run(scenario())

    assert said == [Settled(1, 1, 1), Settled(2, 1), Settled(1, 0, 1)]
    assert tally == Tally(spent=35, held=65)


def test_a_report_that_leaves_attempts_out_is_refused_whole(books: Books) -> None:
    async def scenario() -> tuple[Settled, Tally]:
        await books.settle(report(used(1, 30)), NOW)
        with pytest.raises(LeftOut):
            await books.settle(report(used(3, 5, "r1.3"), told=NOW + 50), NOW)
        with pytest.raises(LeftOut):
            await books.settle(report(used(2, 5, "r1.2"), used(4, 5, "r1.4")), NOW)
        return await books.settle(report(), NOW), (await books.tallies([DAY]))[DAY]

    assert run(scenario()) == (Settled(1), Tally(spent=30))


def test_a_router_hears_of_its_own_settlements_in_order(books: Books) -> None:
    async def scenario() -> tuple[list[tuple[str, int]], float | None, list[int]]:
        await books.settle(report(used(1, 30), used(2, 5, "r2.1"), used(3, 7, "r1.2")), NOW)
        await books.settle(report(told=NOW - 9, journal="j2"), NOW)
        news = await books.news("r1", 0)
        later = await books.news("r1", news.settlements[0].number)
        told = [(each.key.reservation, each.charges[DAY]) for each in news.settlements]
        return told, news.settled_until_unix_s, [each.number for each in later.settlements]

    assert run(scenario()) == ([("r1.1", 30), ("r1.2", 7)], NOW - 9, [3])


def test_numbers_never_come_again(books: Books) -> None:
    async def scenario() -> tuple[int, list[int]]:
        await books.settle(report(used(1, 30)), NOW)
        pruned = await books.prune(NOW + 1)
        await books.settle(report(used(1, 30), used(2, 5, "r1.2")), NOW)
        return pruned, [each.number for each in (await books.news("r1", 0)).settlements]

    assert run(scenario()) == (1, [2])


def test_a_forgotten_runtime_is_waited_for_no_more_until_it_speaks(books: Books) -> None:
    async def scenario() -> list[float | None]:
        await books.settle(report(used(1, 1), told=NOW - 500), NOW)
        await books.settle(report(told=NOW, journal="j2"), NOW)
        until = [(await books.news("r1", 0)).settled_until_unix_s]
        assert await books.forget_journals("j1:9101") == 1
        assert await books.journals_at("j1:9101") == 0
        until.append((await books.news("r1", 0)).settled_until_unix_s)
        await books.settle(report(told=NOW - 500), NOW)
        return [*until, (await books.news("r1", 0)).settled_until_unix_s]

    assert run(scenario()) == [NOW - 500, NOW, NOW - 500]


def test_what_a_router_held_is_given_up_when_nothing_of_it_can_be_left(books: Books) -> None:
    async def scenario() -> list[dict[str, dict[Account, int]]]:
        await books.lease(asks(1, 100), BUDGETS, NOW)
        given_up = []
        for now in (NOW + 69.0, NOW + 71.0):
            await books.settle(report(told=now), now)
            given_up.append(await books.release(longest_request_s=60.0, now_unix_s=now))
        with pytest.raises(RouterGone):
            await books.lease(asks(2, 100), BUDGETS, NOW + 72.0)
        with pytest.raises(RouterGone):
            await books.seen("r1", NOW + 72.0)
        return given_up

    assert run(scenario()) == [{}, {"r1": {DAY: 100}}]


def test_a_runtimes_fast_clock_gives_nothing_up_early(books: Books) -> None:
    async def scenario() -> dict[str, dict[Account, int]]:
        await books.lease(asks(1, 100), BUDGETS, NOW)
        await books.settle(report(told=NOW + 10_000.0), NOW)
        return await books.release(longest_request_s=60.0, now_unix_s=NOW)

    assert run(scenario()) == {}


def test_many_accounts_are_read_and_kept(books: Books) -> None:
    many = {Account(f"t{number}/daily", DAY.window_start_unix_s): 1 for number in range(6_000)}
    budgets = {each.budget: BUDGETS["acme/daily"] for each in many}

    async def scenario() -> int:
        asked = Lease(router="r1", sequence=1, wants=many, returns={})
        await books.lease(asked, budgets, NOW)
        return sum(each.held for each in (await books.tallies(many)).values())

    assert run(scenario()) == 6_000


def test_a_database_that_died_has_all_that_it_said_it_had(postgresql: Postgres) -> None:
    database = Database(postgresql.new_database())
    database.migrate()
    books = Books(database)

    async def scenario() -> tuple[tuple[Grant, ...], Settled, Tally]:
        await books.lease(asks(1, 100), BUDGETS, NOW)
        await books.settle(report(used(1, 30)), NOW)
        postgresql.kill()
        with pytest.raises(DatabaseUnreachable):
            await books.lease(asks(2, 100), BUDGETS, NOW)
        postgresql.start_again()
        again = await books.lease(asks(1, 100), BUDGETS, NOW)
        settled = await books.settle(report(used(1, 30), used(2, 8, "r1.2")), NOW)
        return again, settled, (await books.tallies([DAY]))[DAY]

    assert run(scenario()) == ((Grant(100),), Settled(2, 1), Tally(spent=38, held=62))
    database.close()
