"""The books of policies that were in force: kept, forgotten and found again on both databases."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from services.policy.core.shadow_counts import Shadow
from services.policy.core.versions import (
    KEPT,
    KEPT_FOR_S,
    Cause,
    Enforced,
    Pin,
    VersionNotFound,
)
from services.policy.outbound.database import Database
from services.policy.outbound.versions import DatabaseVersions

T = TypeVar("T")

A, B, C = "a" * 64, "ab" * 32, "c" * 64
OPERATOR = "spiffe://evenflow.local/service/operator"


def entry(version: str, since_unix_s: float = 1_000.5, cause: Cause = Cause.FILE) -> Enforced:
    return Enforced(version, since_unix_s, cause, "policy", 3)


def kept(database: Database, scenario: Callable[[DatabaseVersions], Awaitable[T]]) -> T:
    async def run() -> T:
        return await scenario(DatabaseVersions(database))

    return asyncio.run(run())


def test_what_was_recorded_is_there_the_latest_first(database: Database) -> None:
    async def scenario(books: DatabaseVersions) -> list[Enforced]:
        for version, since_unix_s in ((A, 1.0), (C, 2.0), (A, 3.0)):
            await books.record(entry(version, since_unix_s), version.encode() * 9)
        return await books.latest(2)

    latest, before = kept(database, scenario)

    assert (latest.version, latest.since_unix_s, latest.cause) == (A, 3.0, Cause.FILE)
    assert (latest.actor, latest.tenants, latest.content_bytes) == ("policy", 3, 9 * 64)
    assert before.version == C


def test_a_content_is_found_by_how_its_version_begins(database: Database) -> None:
    async def scenario(books: DatabaseVersions) -> tuple[str, bytes]:
        await books.record(entry(A), b"\x00content of a")
        await books.record(entry(B), b"content of b")
        return await books.content("a" * 8)

    assert kept(database, scenario) == (A, b"\x00content of a")


@pytest.mark.parametrize("name", ["", "aaaaaaa", "%%%%%%%%", "ffffffff", "abababab", "A" * 64])
def test_a_name_that_fits_none_or_several_is_refused(name: str, database: Database) -> None:
    async def scenario(books: DatabaseVersions) -> None:
        for version in (A, B, f"{B[:-1]}0"):
            await books.record(entry(version), b"")
        with pytest.raises(VersionNotFound):
            await books.content(name)

    kept(database, scenario)


def test_a_pin_is_kept_until_the_file_comes_into_force(database: Database) -> None:
    pin = Pin(A, C, 5.25, OPERATOR)

    async def scenario(books: DatabaseVersions) -> list[Pin | None]:
        await books.record(entry(A), b"a")
        await books.record(entry(C), b"c")
        pins = [await books.pinned()]
        await books.pin(pin, entry(A, 5.25, Cause.ROLL_BACK))
        pins.append(await books.pinned())
        await books.record(entry(C), b"c")
        return [*pins, await books.pinned()]

    assert kept(database, scenario) == [None, pin, None]


def test_the_last_thousand_are_kept_however_old(database: Database) -> None:
    async def scenario(books: DatabaseVersions) -> tuple[int, str]:
        await books.record(entry(A, 0.0), b"a")
        for number in range(KEPT):
            await books.record(entry(C, float(number)), b"c")
        before = len(await books.latest(2 * KEPT))
        await books.record(entry(C, KEPT_FOR_S + KEPT / 2), b"c")
        return before, (await books.latest(2 * KEPT))[-1].version

    before, oldest = kept(database, scenario)

    assert before == KEPT + 1  # young enough
    assert oldest == C


def test_a_content_goes_with_its_last_version_and_not_before(database: Database) -> None:
    shadow = Shadow(B, 1.0, OPERATOR, 2)

    async def scenario(books: DatabaseVersions) -> tuple[bool, bool]:
        await books.set_shadow(shadow, b"b")
        await books.record(entry(A), b"a")
        there = await books.shadow() == (shadow, b"b")
        with pytest.raises(VersionNotFound):  # it was never in force
            await books.content(B)
        await books.clear_shadow()
        return there, await books.shadow() is None

    assert kept(database, scenario) == (True, True)


def test_a_shadow_takes_the_place_of_the_one_before(database: Database) -> None:
    shadow = Shadow(C, 2.0, OPERATOR, 7)

    async def scenario(books: DatabaseVersions) -> tuple[Shadow, bytes] | None:
        await books.set_shadow(Shadow(B, 1.0, OPERATOR, 2), b"b")
        await books.set_shadow(shadow, b"c")
        return await books.shadow()

    assert kept(database, scenario) == (shadow, b"c")
