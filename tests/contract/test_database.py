"""SQLite and PostgreSQL keep the same promises: all or nothing, whoever else writes or dies."""

import asyncio

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, create_engine, text

import services.policy.main  # noqa: F401 - every table is declared then
from deploy.local.postgres import Postgres
from services.policy.outbound.database import (
    Database,
    DatabaseUnreachable,
    InvalidDatabase,
    metadata,
)


def make_counter(connection: Connection) -> None:
    connection.execute(text("CREATE TABLE counter (id INTEGER PRIMARY KEY, n BIGINT NOT NULL)"))
    connection.execute(text("INSERT INTO counter VALUES (1, 0)"))


def add_one(connection: Connection) -> None:
    found = connection.execute(text("SELECT n FROM counter")).scalar_one()
    connection.execute(text("UPDATE counter SET n = :n"), {"n": found + 1})


def count(connection: Connection) -> int:
    return int(connection.execute(text("SELECT n FROM counter")).scalar_one())


def test_what_fails_midway_has_not_happened(database: Database) -> None:
    def half(connection: Connection) -> None:
        add_one(connection)
        raise LookupError

    async def scenario() -> int:
        await database.run(make_counter)
        with pytest.raises(LookupError):
            await database.run(half)
        return await database.run(count)

    assert asyncio.run(scenario()) == 0


def test_two_processes_lose_nothing_of_each_others(database: Database, database_url: str) -> None:
    other = Database(database_url)

    async def count_up(of: Database) -> None:
        for _ in range(50):
            await of.run(add_one)

    async def scenario() -> int:
        await database.run(make_counter)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(count_up(database))
            tasks.create_task(count_up(other))
        return await database.run(count)

    assert asyncio.run(scenario()) == 100
    other.close()


def test_tables_are_those_that_the_migrations_make(database: Database, database_url: str) -> None:
    database.migrate()  # again changes nothing

    engine = create_engine(database_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = compare_metadata(context, metadata)
    engine.dispose()
    assert differences == []


def test_a_server_that_died_is_told_and_works_again_when_it_is_back(postgresql: Postgres) -> None:
    database = Database(postgresql.new_database())

    async def scenario() -> int:
        await database.run(make_counter)
        postgresql.kill()
        with pytest.raises(DatabaseUnreachable):
            await database.run(add_one)
        postgresql.start_again()
        await database.run(add_one)
        return await database.run(count)

    assert asyncio.run(scenario()) == 1
    database.close()


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("policy.db", "must be a URL"),
        ("sqlite://", "must name a file"),
        ("mysql://a/b", "must be sqlite or postgresql"),
    ],
)
def test_other_databases_are_refused(url: str, problem: str) -> None:
    with pytest.raises(InvalidDatabase, match=problem):
        Database(url)
