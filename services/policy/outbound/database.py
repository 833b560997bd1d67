"""What must outlive the policy service, in SQLite beside it or in PostgreSQL: one transaction at a
time, in a thread of its own, so that no call waits for a disk on the event loop.

Isolation: one thread takes its turns in order, which is all that SQLite needs. In PostgreSQL, where
other processes may write too, transactions are SERIALIZABLE and done again when two of them met.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from typing import Any, TypeVar

from alembic import command
from alembic.config import Config as AlembicConfig
from sqlalchemy import Connection, Engine, MetaData, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

T = TypeVar("T")

metadata = MetaData()  # every table of the service is declared on it, beside its reader

_TRIES = 50  # of a transaction that met another; of two that meet, one gets on
_SERIALIZATION_FAILURES = frozenset({"40001", "40P01"})  # PostgreSQL's SQLSTATEs, appendix A
_CONNECT_S = 2
_STATEMENT_MS = 5_000


class DatabaseUnreachable(Exception):
    """The database does not answer; what was asked for did not happen. Come back."""

    retry_after_s = 1.0


class InvalidDatabase(ValueError):
    """No URL of a database that this service can use."""


class Database:
    """`url`: as SQLAlchemy writes it, `sqlite:////folder/policy.db` or
    `postgresql+psycopg://user@host/name`.

    Raises InvalidDatabase for any other.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._engine = _engine(url)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="database")

    def migrate(self) -> None:
        """Makes its tables, or brings them up to date. Blocks.

        Raises DatabaseUnreachable.
        """
        config = AlembicConfig()
        config.set_main_option("script_location", str(files(__package__) / "migrations"))
        try:
            with self._engine.begin() as connection:
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        except (OperationalError, InterfaceError) as error:
            raise DatabaseUnreachable(str(error.orig)) from error

    async def run(self, work: Callable[[Connection], T]) -> T:
        """What `work` returns, from one transaction: all of it happens, or none. `work` may be
        called several times and must change nothing else. Cancelling the wait does not undo it.

        Raises DatabaseUnreachable; then nothing has happened, unless the connection was lost while
        the end of the transaction was under way: whoever must know asks again.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._transaction, work)

    def close(self) -> None:
        self._thread.shutdown()
        self._engine.dispose()

    def _transaction(self, work: Callable[[Connection], T]) -> T:
        for left in reversed(range(_TRIES)):
            try:
                with self._engine.begin() as connection:
                    return work(connection)
            except DBAPIError as error:
                if left and getattr(error.orig, "sqlstate", None) in _SERIALIZATION_FAILURES:
                    continue
                if isinstance(error, (OperationalError, InterfaceError)):
                    raise DatabaseUnreachable("the database does not answer") from error
                raise
            except PoolTimeoutError as error:
                raise DatabaseUnreachable("the database does not answer") from error
        raise AssertionError("the last try returns or raises")


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise InvalidDatabase("must be a URL as SQLAlchemy writes it") from error
    match parsed.drivername:
        case "sqlite":
            if not parsed.database or parsed.database == ":memory:":
                raise InvalidDatabase("must name a file: sqlite:////folder/policy.db")
            engine = create_engine(parsed, connect_args={"timeout": _STATEMENT_MS / 1000})
            event.listen(engine, "connect", _set_up_sqlite)
            event.listen(engine, "begin", _begin_immediate)
            return engine
        case "postgresql+psycopg":
            options = f"-c statement_timeout={_STATEMENT_MS} -c lock_timeout={_STATEMENT_MS}"
            return create_engine(
                parsed,
                isolation_level="SERIALIZABLE",
                pool_pre_ping=True,  # a server that was started again costs no call
                pool_size=1,
                max_overflow=0,
                connect_args={"connect_timeout": _CONNECT_S, "options": options},
            )
    raise InvalidDatabase(f"must be sqlite or postgresql+psycopg, got {parsed.drivername}")


def _set_up_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions begin where we say, not at the first write
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",  # what was said to be written outlives a power cut, too
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
