"""Keys in memory stay those in the database, whoever has changed them and whatever was said."""

import asyncio

import pytest

from services.policy.core.keys import Key, Keys, Secret
from services.policy.outbound.database import DatabaseUnreachable
from services.policy.outbound.key_following import LOOK_EVERY_S, follow_keys
from tests import virtual_time
from tests.fakes.kept_keys import KeptKeys

KEY = Key(tenant="acme", id="web-1", workload="web", secret=Secret(bytes(32)), created_unix_s=1.0)


class InForce:
    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self.taken = 0

    def took(self, keys: Keys) -> None:
        self.keys = keys
        self.taken += 1


async def for_looks(store: KeptKeys, of: InForce, looks: int) -> None:
    try:
        async with asyncio.timeout((looks + 0.5) * LOOK_EVERY_S):
            await follow_keys(store, lambda: of.keys, of.took)
    except TimeoutError:
        return


def test_a_revocation_that_was_done_and_not_answered_is_seen() -> None:
    async def scenario() -> tuple[Keys, int]:
        store = KeptKeys(KEY)
        of = InForce(await store.read())
        store.is_mute = True
        with pytest.raises(DatabaseUnreachable):
            await store.remove("acme", "web-1")
        await for_looks(store, of, 3)
        return of.keys, of.taken

    assert virtual_time.run(scenario()) == (Keys(2, ()), 1)


def test_while_the_database_is_away_all_stays_and_then_is_seen() -> None:
    async def scenario() -> tuple[int, int]:
        store = KeptKeys(KEY)
        of = InForce(Keys())
        store.is_away = True
        await for_looks(store, of, 3)
        meanwhile = of.taken
        store.is_away = False
        await for_looks(store, of, 3)
        return meanwhile, of.taken

    assert virtual_time.run(scenario()) == (0, 1)
