"""Keys in memory: a KeyStore that goes away, or forgets to answer, as the test tells it."""

from collections.abc import Callable

from services.policy.core.keys import Key, KeyExists, KeyNotFound, Keys
from services.policy.outbound.database import DatabaseUnreachable


class KeptKeys:
    """`is_away`: nothing happens. `is_mute`: the next change happens, and nobody is told."""

    def __init__(self, *keys: Key) -> None:
        self._keys = {(each.tenant, each.id): each for each in keys}
        self._revision = len(keys)
        self.is_away = False
        self.is_mute = False

    async def read(self) -> Keys:
        self._reached()
        return Keys(self._revision, tuple(self._keys[name] for name in sorted(self._keys)))

    async def revision(self) -> int:
        self._reached()
        return self._revision

    async def add(self, key: Key) -> Keys:
        self._reached()
        if (key.tenant, key.id) in self._keys:
            raise KeyExists(f"{key.tenant} has a key {key.id!a} already")
        self._keys[key.tenant, key.id] = key
        return await self._changed()

    async def change(self, tenant: str, id_: str, change: Callable[[Key], Key]) -> Keys:
        self._found(tenant, id_)
        self._keys[tenant, id_] = change(self._keys[tenant, id_])
        return await self._changed()

    async def remove(self, tenant: str, id_: str) -> Keys:
        self._found(tenant, id_)
        del self._keys[tenant, id_]
        return await self._changed()

    def _found(self, tenant: str, id_: str) -> None:
        self._reached()
        if (tenant, id_) not in self._keys:
            raise KeyNotFound(f"{tenant!a} has no key {id_!a} that policy has made")

    async def _changed(self) -> Keys:
        self._revision += 1
        if self.is_mute:
            self.is_mute = False
            raise DatabaseUnreachable("the database does not answer")
        return await self.read()

    def _reached(self) -> None:
        if self.is_away:
            raise DatabaseUnreachable("the database does not answer")
