"""Keeps the policies that were in force, the pin and the shadow in the database.

A content is kept once, compressed, for as long as anything here names it.
"""

import zlib
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    ForeignKey,
    Integer,
    LargeBinary,
    String,
    Table,
    delete,
    insert,
    select,
    update,
)

from services.policy.core.shadow_counts import Shadow
from services.policy.core.versions import (
    KEPT,
    KEPT_AT_MOST,
    KEPT_FOR_S,
    Cause,
    Enforced,
    Pin,
    VersionNotFound,
)
from services.policy.outbound.database import Database, metadata

_DIGEST = String(64)
_ACTOR = String(2048)  # a SPIFFE ID's longest
_SHORTEST_NAME = 8
_ONE = 1  # the id of a row that is alone in its table

contents = Table(
    "policy_contents",
    metadata,
    Column("version", _DIGEST, primary_key=True),
    Column("compressed", LargeBinary, nullable=False),
    Column("content_bytes", BigInteger, nullable=False),
    Column("tenants", Integer, nullable=False),
)
enforced = Table(
    "policy_versions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("version", _DIGEST, ForeignKey("policy_contents.version"), nullable=False),
    Column("since_unix_ms", BigInteger, nullable=False),
    Column("cause", String(16), nullable=False),
    Column("actor", _ACTOR, nullable=False),
)
pins = Table(
    "policy_pin",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("version", _DIGEST, ForeignKey("policy_contents.version"), nullable=False),
    Column("file_version", _DIGEST, nullable=False),
    Column("since_unix_ms", BigInteger, nullable=False),
    Column("actor", _ACTOR, nullable=False),
)
shadows = Table(
    "policy_shadow",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("version", _DIGEST, ForeignKey("policy_contents.version"), nullable=False),
    Column("since_unix_ms", BigInteger, nullable=False),
    Column("actor", _ACTOR, nullable=False),
)


class DatabaseVersions:
    """Each call raises DatabaseUnreachable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def record(self, each: Enforced, content: bytes) -> None:
        """It came into force, and nothing is pinned. What is beyond the retention goes."""
        compressed = zlib.compress(content)

        def work(connection: Connection) -> None:
            _keep(connection, each, compressed, len(content))
            connection.execute(delete(pins))
            _note(connection, each)
            _forget(connection, each.since_unix_s)

        await self._database.run(work)

    async def latest(self, most: int) -> list[Enforced]:
        """The latest first."""
        wanted = (
            select(enforced, contents.c.tenants, contents.c.content_bytes)
            .join(contents)
            .order_by(enforced.c.since_unix_ms.desc(), enforced.c.id.desc())
            .limit(most)
        )

        def work(connection: Connection) -> list[Enforced]:
            return [_enforced(row) for row in connection.execute(wanted)]

        return await self._database.run(work)

    async def content(self, name: str) -> tuple[str, bytes]:
        """The version that is so called, or alone begins so. Raises VersionNotFound."""

        def work(connection: Connection) -> tuple[str, bytes]:
            return _content(connection, name)

        version, compressed = await self._database.run(work)
        return version, zlib.decompress(compressed)

    async def pin(self, pin: Pin, each: Enforced) -> None:
        """It is pinned, and came into force by that."""

        def work(connection: Connection) -> None:
            connection.execute(delete(pins))
            connection.execute(insert(pins).values(id=_ONE, **_pin_values(pin)))
            _note(connection, each)

        await self._database.run(work)

    async def pinned(self) -> Pin | None:
        def work(connection: Connection) -> Pin | None:
            row = connection.execute(select(pins)).one_or_none()
            if row is None:
                return None
            return Pin(row.version, row.file_version, row.since_unix_ms / 1000, row.actor)

        return await self._database.run(work)

    async def set_shadow(self, shadow: Shadow, content: bytes) -> None:
        compressed = zlib.compress(content)
        named = {"version": shadow.version, "actor": shadow.actor}
        kept = Enforced(shadow.version, 0.0, Cause.FILE, "", shadow.tenants)

        def work(connection: Connection) -> None:
            _keep(connection, kept, compressed, len(content))
            connection.execute(delete(shadows))
            since = _ms(shadow.since_unix_s)
            connection.execute(insert(shadows).values(id=_ONE, since_unix_ms=since, **named))
            _drop_unnamed(connection)

        await self._database.run(work)

    async def clear_shadow(self) -> None:
        def work(connection: Connection) -> None:
            connection.execute(delete(shadows))
            _drop_unnamed(connection)

        await self._database.run(work)

    async def shadow(self) -> tuple[Shadow, bytes] | None:
        def work(connection: Connection) -> Any:
            return connection.execute(select(shadows, contents).join(contents)).one_or_none()

        row = await self._database.run(work)
        if row is None:
            return None
        shadow = Shadow(row.version, row.since_unix_ms / 1000, row.actor, row.tenants)
        return shadow, zlib.decompress(row.compressed)


def _keep(connection: Connection, each: Enforced, compressed: bytes, content_bytes: int) -> None:
    """Its tenants are counted anew: a later release may read it in another way."""
    known = connection.execute(
        update(contents).where(contents.c.version == each.version).values(tenants=each.tenants)
    )
    if known.rowcount == 0:
        values = {"version": each.version, "compressed": compressed, "tenants": each.tenants}
        connection.execute(insert(contents).values(content_bytes=content_bytes, **values))


def _note(connection: Connection, each: Enforced) -> None:
    connection.execute(
        insert(enforced).values(
            version=each.version,
            since_unix_ms=_ms(each.since_unix_s),
            cause=each.cause.value,
            actor=each.actor,
        )
    )


def _forget(connection: Connection, now_unix_s: float) -> None:
    too_old = enforced.c.since_unix_ms < _ms(now_unix_s - KEPT_FOR_S)
    for most, condition in ((KEPT, too_old), (KEPT_AT_MOST, None)):
        newest = select(enforced.c.id).order_by(enforced.c.id.desc())
        edge = connection.execute(newest.offset(most).limit(1)).scalar_one_or_none()
        if edge is not None:
            beyond = delete(enforced).where(enforced.c.id <= edge)
            connection.execute(beyond if condition is None else beyond.where(condition))
    _drop_unnamed(connection)


def _drop_unnamed(connection: Connection) -> None:
    statement = delete(contents)
    for table in (enforced, pins, shadows):
        statement = statement.where(contents.c.version.not_in(select(table.c.version)))
    connection.execute(statement)


def _content(connection: Connection, name: str) -> tuple[str, bytes]:
    if len(name) < _SHORTEST_NAME or not set(name) <= set("0123456789abcdef"):
        raise VersionNotFound(f"{name[:100]!a} is no version: 8 to 64 hexadecimal digits")
    known = select(contents).where(contents.c.version.in_(select(enforced.c.version)))
    rows = connection.execute(known.where(contents.c.version.startswith(name)).limit(2)).all()
    if len(rows) != 1:
        many = "several versions begin" if rows else "no version that is kept begins"
        raise VersionNotFound(f"{many} with {name[:64]}")
    return rows[0].version, rows[0].compressed


def _pin_values(pin: Pin) -> dict[str, Any]:
    return {
        "version": pin.version,
        "file_version": pin.file_version,
        "since_unix_ms": _ms(pin.since_unix_s),
        "actor": pin.actor,
    }


def _enforced(row: Any) -> Enforced:
    since_s, cause = row.since_unix_ms / 1000, Cause(row.cause)
    return Enforced(row.version, since_s, cause, row.actor, row.tenants, row.content_bytes)


def _ms(unix_s: float) -> int:
    return round(unix_s * 1000)
