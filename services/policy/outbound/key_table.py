"""The keys that policy has made, in its database: a KeyStore.

One row a key. A revision is counted up by each change, in the same transaction, so that whoever
sees it sees the keys; and all keys are read again with each, so that what is in memory can't part
from what is durable.
"""

from collections.abc import Callable

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Float,
    Integer,
    LargeBinary,
    Row,
    String,
    Table,
    delete,
    insert,
    select,
    update,
)

from services.policy.core.keys import Key, KeyExists, KeyNotFound, Keys, Secret
from services.policy.outbound.database import Database, metadata

api_keys = Table(
    "api_keys",
    metadata,
    Column("tenant", String(63), primary_key=True),
    Column("id", String(63), primary_key=True),
    Column("workload", String(63), nullable=False),
    Column("hmac_sha256", LargeBinary(32), nullable=False),
    Column("created_unix_s", Float(53), nullable=False),
    Column("expires_unix_s", Float(53)),
    Column("rotated_unix_s", Float(53)),
    Column("former_hmac_sha256", LargeBinary(32)),
    Column("former_expires_unix_s", Float(53)),
)
api_key_revision = Table(
    "api_key_revision",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("revision", BigInteger, nullable=False),
)


class KeyTable:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self) -> Keys:
        return await self._database.run(_read)

    async def revision(self) -> int:
        return await self._database.run(_revision)

    async def add(self, key: Key) -> Keys:
        def work(connection: Connection) -> Keys:
            if _find(connection, key.tenant, key.id) is not None:
                raise KeyExists(f"{key.tenant} has a key {key.id!a} already")
            connection.execute(insert(api_keys).values(_values(key)))
            return _changed(connection)

        return await self._database.run(work)

    async def change(self, tenant: str, id_: str, change: Callable[[Key], Key]) -> Keys:
        def work(connection: Connection) -> Keys:
            after = change(_found(connection, tenant, id_))
            connection.execute(update(api_keys).where(*_is(tenant, id_)).values(_values(after)))
            return _changed(connection)

        return await self._database.run(work)

    async def remove(self, tenant: str, id_: str) -> Keys:
        def work(connection: Connection) -> Keys:
            _found(connection, tenant, id_)
            connection.execute(delete(api_keys).where(*_is(tenant, id_)))
            return _changed(connection)

        return await self._database.run(work)


def _changed(connection: Connection) -> Keys:
    connection.execute(update(api_key_revision).values(revision=api_key_revision.c.revision + 1))
    return _read(connection)


def _read(connection: Connection) -> Keys:
    rows = connection.execute(select(api_keys).order_by(api_keys.c.tenant, api_keys.c.id))
    return Keys(_revision(connection), tuple(_key(row) for row in rows))


def _revision(connection: Connection) -> int:
    return int(connection.execute(select(api_key_revision.c.revision)).scalar_one())


def _found(connection: Connection, tenant: str, id_: str) -> Key:
    row = _find(connection, tenant, id_)
    if row is None:
        raise KeyNotFound(f"{tenant[:100]!a} has no key {id_[:100]!a} that policy has made")
    return _key(row)


def _find(connection: Connection, tenant: str, id_: str) -> Row | None:
    return connection.execute(select(api_keys).where(*_is(tenant, id_))).one_or_none()


def _is(tenant: str, id_: str):  # type: ignore[no-untyped-def] # noqa: ANN202 - SQLAlchemy's own
    return api_keys.c.tenant == tenant, api_keys.c.id == id_


def _values(key: Key) -> dict[str, object]:
    former = key.former
    return {
        "tenant": key.tenant,
        "id": key.id,
        "workload": key.workload,
        "hmac_sha256": key.secret.hmac_sha256,
        "created_unix_s": key.created_unix_s,
        "expires_unix_s": key.secret.expires_unix_s,
        "rotated_unix_s": key.rotated_unix_s,
        "former_hmac_sha256": former.hmac_sha256 if former else None,
        "former_expires_unix_s": former.expires_unix_s if former else None,
    }


def _key(row: Row) -> Key:
    former = row.former_hmac_sha256
    return Key(
        tenant=row.tenant,
        id=row.id,
        workload=row.workload,
        secret=Secret(bytes(row.hmac_sha256), row.expires_unix_s),
        created_unix_s=row.created_unix_s,
        rotated_unix_s=row.rotated_unix_s,
        former=Secret(bytes(former), row.former_expires_unix_s) if former else None,
    )
