"""The registry of prompts in the database. Rows are added and never changed: a version is what it
was, and a label's past stays readable."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import Connection

from services.policy.core import labels
from services.policy.core.labels import Move
from services.policy.core.prompts import InvalidPrompt
from services.policy.core.registry import (
    Author,
    Change,
    Changes,
    Key,
    Label,
    Made,
    Pointed,
    PromptNotFound,
    PromptVersionExists,
    RegistryUnreachable,
    Summary,
    Version,
    Wanted,
)
from services.policy.outbound.database import Database, DatabaseUnreachable
from services.policy.outbound.prompt_tables import (
    content_of,
    content_text,
    moves,
    revisions,
    shares_of,
    shares_text,
    versions,
)

T = TypeVar("T")

_AT_ONCE = 500  # changes that are read in one turn


class StoredPrompts:
    """A Registry."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, key: Key, wanted: Wanted, author: Author) -> Made:
        return await self._run(lambda to: _create(to, key, wanted, author))

    async def version(self, key: Key, number: int) -> Version:
        return await self._run(lambda to: _version(to, key, number))

    async def summaries(self, tenant: str, name: str) -> Sequence[Summary]:
        return await self._run(lambda to: _summaries(to, tenant, name))

    async def point(self, key: Key, pointed: Pointed, author: Author) -> tuple[Move, bool]:
        return await self._run(lambda to: _point(to, key, pointed, author))

    async def roll_back(self, key: Key, label: str, author: Author) -> Move:
        return await self._run(lambda to: _roll_back(to, key, label, author))

    async def changes(self, after: int) -> Changes:
        rows = await self._run(lambda to: _rows_after(to, after))
        # Not in the database's thread, whose turn others wait for.
        return await asyncio.to_thread(_changes, rows)

    async def _run(self, work: Callable[[Connection], T]) -> T:
        try:
            return await self._database.run(work)
        except DatabaseUnreachable as error:
            raise RegistryUnreachable(str(error)) from error


@dataclass(frozen=True, slots=True)
class _Stamp:
    author: Author
    revision: int  # if anything is changed


def _of(key: Key, table: sa.Table) -> sa.ColumnElement[bool]:
    return sa.and_(table.c.tenant == key.tenant, table.c.name == key.name)


def _create(to: Connection, key: Key, wanted: Wanted, author: Author) -> Made:
    number, content = wanted.number, wanted.content
    revision = _next_revision(to)  # first: of two at once, one waits here for the other
    last = to.execute(sa.select(sa.func.max(versions.c.version)).where(_of(key, versions))).scalar()
    last = last or 0
    if not 0 <= number <= last + 1:
        raise InvalidPrompt("version", f"must be {last + 1}, the next one, got {number}")
    if 0 < number <= last:
        if _version(to, key, number).content != content:
            raise PromptVersionExists(f"version {number} of {key.name} has other content")
        return Made(number, is_new=False)
    _take(to, revision)
    row = {
        **_key_values(key),
        "version": last + 1,
        "content": content_text(content),
        "created_unix_s": author.at_unix_s,
        "created_by": author.name,
        "revision": revision,
    }
    to.execute(sa.insert(versions).values(row))
    return Made(last + 1, is_new=True)


def _version(to: Connection, key: Key, number: int) -> Version:
    wanted = sa.select(versions).where(_of(key, versions))
    wanted = wanted.where(versions.c.version == number) if number else wanted
    row = to.execute(wanted.order_by(versions.c.version.desc()).limit(1)).first()
    if row is None:
        which = f"{key.name}@{number}" if number else key.name
        raise PromptNotFound(f"tenant {key.tenant} has no prompt {which}")
    return _version_of(row)


def _summaries(to: Connection, tenant: str, name: str) -> Sequence[Summary]:
    def wanted(table: sa.Table) -> sa.ColumnElement[bool]:
        return sa.and_(table.c.tenant == tenant, *([table.c.name == name] if name else []))

    counts = to.execute(
        sa.select(versions.c.name, sa.func.max(versions.c.version))
        .where(wanted(versions))
        .group_by(versions.c.name)
        .order_by(versions.c.name)
    ).all()
    rows = to.execute(
        sa.select(moves).where(wanted(moves)).order_by(moves.c.name, moves.c.label, moves.c.number)
    ).all()
    found = {each: list(of) for each, of in groupby(rows, key=lambda row: str(row.name))}
    return tuple(Summary(each, count, _labels(found.get(each, ()))) for each, count in counts)


def _labels(rows: Sequence[Any]) -> Sequence[Label]:
    """`rows`: all moves of one prompt, by label and in order."""
    return tuple(
        Label(label, tuple((_move_of(row), Author(row.moved_by, row.moved_unix_s)) for row in of))
        for label, of in groupby(rows, key=lambda row: str(row.label))
    )


def _point(to: Connection, key: Key, pointed: Pointed, author: Author) -> tuple[Move, bool]:
    def next_move(past: Sequence[Move]) -> Move | None:
        return labels.moved(past[-1] if past else None, pointed.shares)

    revision = _next_revision(to)
    numbers = [each.version for each in pointed.shares]
    known = set(to.scalars(sa.select(versions.c.version).where(_of(key, versions))))
    missing = [each for each in numbers if each not in known]
    if missing:
        raise PromptNotFound(f"tenant {key.tenant} has no prompt {key.name}@{missing[0]}")
    return _move(to, (key, pointed.label), next_move, _Stamp(author, revision))


def _roll_back(to: Connection, key: Key, label: str, author: Author) -> Move:
    def next_move(past: Sequence[Move]) -> Move:
        if not past:
            raise PromptNotFound(f"tenant {key.tenant}'s prompt {key.name} has no label {label}")
        return labels.rolled_back(past)

    return _move(to, (key, label), next_move, _Stamp(author, _next_revision(to)))[0]


def _move(
    to: Connection,
    of: tuple[Key, str],
    next_move: Callable[[Sequence[Move]], Move | None],
    stamp: "_Stamp",
) -> tuple[Move, bool]:
    key, label = of
    rows = to.execute(
        sa.select(moves).where(_of(key, moves), moves.c.label == label).order_by(moves.c.number)
    )
    past = [_move_of(row) for row in rows]
    move = next_move(past)
    if move is None:
        return past[-1], False
    _take(to, stamp.revision)
    row = {
        **_key_values(key),
        "label": label,
        "number": move.number,
        "shares": shares_text(move.shares),
        "before": move.before,
        "rolled_back": move.rolled_back,
        "moved_unix_s": stamp.author.at_unix_s,
        "moved_by": stamp.author.name,
        "revision": stamp.revision,
    }
    to.execute(sa.insert(moves).values(row))
    return move, True


@dataclass(frozen=True, slots=True)
class _Rows:
    versions: Sequence[Any]
    moves: Sequence[Any]  # in order
    upto: int  # revision
    last: int  # that there is


def _rows_after(to: Connection, after: int) -> _Rows:
    last: int = to.execute(sa.select(revisions.c.revision)).scalar_one()
    upto = min(last, after + _AT_ONCE)

    def found(table: sa.Table) -> Sequence[Any]:
        between = table.c.revision.between(after + 1, upto)
        return to.execute(sa.select(table).where(between).order_by(table.c.revision)).all()

    return _Rows(found(versions), found(moves), upto, last)


def _changes(rows: _Rows) -> Changes:
    """A label's earlier moves are left out: nobody need hear of them any more."""
    found = [
        Change(row.revision, Key(row.tenant, row.name), _version_of(row)) for row in rows.versions
    ]
    last = {(row.tenant, row.name, row.label): row for row in rows.moves}
    found += [
        Change(row.revision, Key(row.tenant, row.name), Pointed(row.label, shares_of(row.shares)))
        for row in last.values()
    ]
    found.sort(key=lambda each: each.revision)
    return Changes(found, rows.upto, whole=rows.upto == rows.last)


def _next_revision(to: Connection) -> int:
    """Locks the number until the transaction ends, so that changes are numbered as they happen."""
    found: int = to.execute(sa.select(revisions.c.revision).with_for_update()).scalar_one()
    return found + 1


def _take(to: Connection, revision: int) -> None:
    to.execute(sa.update(revisions).values(revision=revision))


def _key_values(key: Key) -> dict[str, str]:
    return {"tenant": key.tenant, "name": key.name}


def _version_of(row: Any) -> Version:
    author = Author(row.created_by, row.created_unix_s)
    return Version(row.version, content_of(row.content), author)


def _move_of(row: Any) -> Move:
    return Move(row.number, shares_of(row.shares), row.before, row.rolled_back)
