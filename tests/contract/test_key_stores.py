"""What every KeyStore must do. The fake, SQLite and PostgreSQL pass the same tests."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest

from services.policy.core.keys import Key, KeyExists, KeyNotFound, Keys, KeyStore, Secret
from services.policy.outbound.database import Database
from services.policy.outbound.key_table import KeyTable
from tests.contract.conftest import POSTGRESQL, SQLITE
from tests.fakes.kept_keys import KeptKeys

KEY = Key(
    tenant="acme",
    id="web-1",
    workload="web",
    secret=Secret(bytes(range(32))),
    created_unix_s=1_800_000_000.25,
)
FULL = replace(
    KEY,
    id="web-2",
    secret=Secret(bytes(32), 1_900_000_000.5),
    rotated_unix_s=1_800_000_001.75,
    former=Secret(bytes(range(1, 33)), 1_800_000_100.125),
)


@pytest.fixture(params=["fake", SQLITE, POSTGRESQL])
def store(request: pytest.FixtureRequest, tmp_path: object) -> Iterator[KeyStore]:
    if request.param == "fake":
        yield KeptKeys()
        return
    if request.param == SQLITE:
        url = f"sqlite:///{tmp_path}/policy.db"
    else:
        url = request.getfixturevalue("postgresql").new_database()
    database = Database(url)
    database.migrate()
    yield KeyTable(database)
    database.close()


def test_there_are_none_at_first(store: KeyStore) -> None:
    assert asyncio.run(store.read()) == Keys()


def test_what_was_added_is_read_as_it_was(store: KeyStore) -> None:
    async def scenario() -> tuple[Keys, Keys]:
        await store.add(FULL)
        return await store.add(KEY), await store.read()

    told, read = asyncio.run(scenario())

    assert told == read == Keys(2, (KEY, FULL))


def test_an_id_is_taken_once_in_its_tenant(store: KeyStore) -> None:
    async def scenario() -> Keys:
        await store.add(KEY)
        with pytest.raises(KeyExists):
            await store.add(replace(KEY, workload="batch"))
        return await store.add(replace(KEY, tenant="globex"))

    assert asyncio.run(scenario()) == Keys(2, (KEY, replace(KEY, tenant="globex")))


def test_a_change_is_told_and_kept(store: KeyStore) -> None:
    async def scenario() -> tuple[Keys, Keys, int]:
        await store.add(KEY)
        told = await store.change("acme", "web-1", lambda key: replace(FULL, id=key.id))
        return told, await store.read(), await store.revision()

    after = Keys(2, (replace(FULL, id="web-1"),))
    assert asyncio.run(scenario()) == (after, after, 2)


def test_a_change_that_is_refused_has_not_happened(store: KeyStore) -> None:
    def refuse(_: Key) -> Key:
        raise LookupError

    async def scenario() -> Keys:
        await store.add(KEY)
        with pytest.raises(LookupError):
            await store.change("acme", "web-1", refuse)
        return await store.read()

    assert asyncio.run(scenario()) == Keys(1, (KEY,))


def test_what_was_removed_is_gone(store: KeyStore) -> None:
    async def scenario() -> Keys:
        await store.add(KEY)
        await store.add(FULL)
        return await store.remove("acme", "web-1")

    assert asyncio.run(scenario()) == Keys(3, (FULL,))


def test_what_is_not_there_is_neither_changed_nor_removed(store: KeyStore) -> None:
    async def scenario() -> int:
        await store.add(KEY)
        with pytest.raises(KeyNotFound):
            await store.change("globex", "web-1", lambda key: key)
        with pytest.raises(KeyNotFound):
            await store.remove("acme", "web-3")
        return await store.revision()

    assert asyncio.run(scenario()) == 1
