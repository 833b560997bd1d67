"""The registry of prompts keeps what it was told, on SQLite and PostgreSQL."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from services.policy.core.labels import NothingBefore, Share
from services.policy.core.prompts import (
    Content,
    Defaults,
    InvalidPrompt,
    Role,
    TemplateMessage,
    Type,
    Variable,
)
from services.policy.core.registry import (
    Author,
    Changes,
    Key,
    Made,
    Pointed,
    PromptNotFound,
    PromptVersionExists,
    RegistryUnreachable,
    Version,
    Wanted,
)
from services.policy.outbound.database import Database
from services.policy.outbound.prompts import StoredPrompts

T = TypeVar("T")
ANN = Author("spiffe://evenflow.local/service/operator", 1_700_000_000.25)
TRIAGE = Key("acme", "triage")
ALL_TO_1, ALL_TO_2 = (Share(1, 100),), (Share(2, 100),)


def content(text: str = "Sort: {{ticket}}\x00") -> Content:
    return Content(
        (TemplateMessage(Role.SYSTEM, "Be \\{{brief}}."), TemplateMessage(Role.USER, text)),
        (Variable("ticket", Type.STRING, "none", 50),) if "{{" in text else (),
        "small",
        Defaults(max_output_tokens=20, temperature=0.0, stop=("\n",)),
    )


def in_registry(database: Database, body: Callable[[StoredPrompts], Awaitable[T]]) -> T:
    async def scenario() -> T:
        return await body(StoredPrompts(database))

    return asyncio.run(scenario())


async def two_versions(registry: StoredPrompts, key: Key = TRIAGE) -> None:
    await registry.create(key, Wanted(0, content()), ANN)
    await registry.create(key, Wanted(0, content("Two")), ANN)


def test_a_version_is_read_as_it_was_written(database: Database) -> None:
    async def body(registry: StoredPrompts) -> None:
        assert await registry.create(TRIAGE, Wanted(0, content()), ANN) == Made(1, is_new=True)
        assert await registry.create(TRIAGE, Wanted(2, content("B")), ANN) == Made(2, is_new=True)

        assert await registry.version(TRIAGE, 1) == Version(1, content(), ANN)
        assert await registry.version(TRIAGE, 0) == Version(2, content("B"), ANN), "the latest"

    in_registry(database, body)


def test_a_version_never_changes(database: Database) -> None:
    async def body(registry: StoredPrompts) -> None:
        await two_versions(registry)

        assert await registry.create(TRIAGE, Wanted(1, content()), ANN) == Made(1, is_new=False)
        with pytest.raises(PromptVersionExists):
            await registry.create(TRIAGE, Wanted(1, content("other")), ANN)
        with pytest.raises(InvalidPrompt, match="must be 3"):
            await registry.create(TRIAGE, Wanted(4, content()), ANN)
        assert (await registry.version(TRIAGE, 1)).content == content()

    in_registry(database, body)


def test_versions_made_at_once_are_numbered_without_gaps(
    database: Database, database_url: str
) -> None:
    other = Database(database_url)

    async def body(registry: StoredPrompts) -> None:
        async def make(of: StoredPrompts) -> list[int]:
            return [(await of.create(TRIAGE, Wanted(0, content()), ANN)).number for _ in range(10)]

        async with asyncio.TaskGroup() as tasks:
            makers = [tasks.create_task(make(each)) for each in (registry, StoredPrompts(other))]
        numbers = [number for maker in makers for number in maker.result()]
        assert sorted(numbers) == list(range(1, 21))
        revisions = [each.revision for each in (await registry.changes(0)).changes]
        assert revisions == list(range(1, 21))

    in_registry(database, body)
    other.close()


def test_a_label_moves_and_goes_back(database: Database) -> None:
    async def body(registry: StoredPrompts) -> None:
        await two_versions(registry)
        canary = (Share(1, 90), Share(2, 10))

        for shares in (ALL_TO_1, canary, ALL_TO_2):
            move, is_new = await registry.point(TRIAGE, Pointed("production", shares), ANN)
            assert (tuple(move.shares), is_new) == (shares, True)
        assert not (await registry.point(TRIAGE, Pointed("production", ALL_TO_2), ANN))[1]

        assert (await registry.roll_back(TRIAGE, "production", ANN)).shares == canary
        assert (await registry.roll_back(TRIAGE, "production", ANN)).shares == ALL_TO_1
        with pytest.raises(NothingBefore):
            await registry.roll_back(TRIAGE, "production", ANN)
        (summary,) = await registry.summaries("acme", "triage")
        moves = [move for move, _ in summary.labels[0].moves]
        assert [each.number for each in moves] == [1, 2, 3, 4, 5]
        assert [each.rolled_back for each in moves] == [False, False, False, True, True]

    in_registry(database, body)


def test_another_tenants_prompts_are_unknown(database: Database) -> None:
    async def body(registry: StoredPrompts) -> None:
        await two_versions(registry)
        theirs = Key("globex", "triage")

        assert await registry.summaries("globex", "") == ()
        with pytest.raises(PromptNotFound):
            await registry.version(theirs, 1)
        with pytest.raises(PromptNotFound):
            await registry.point(theirs, Pointed("production", ALL_TO_1), ANN)
        with pytest.raises(PromptNotFound):
            await registry.roll_back(theirs, "production", ANN)
        assert (await registry.create(theirs, Wanted(0, content("T")), ANN)).number == 1

    in_registry(database, body)


def test_a_label_points_to_versions_that_are_there(database: Database) -> None:
    async def body(registry: StoredPrompts) -> None:
        await two_versions(registry)

        with pytest.raises(PromptNotFound, match="triage@3"):
            await registry.point(TRIAGE, Pointed("canary", (Share(1, 50), Share(3, 50))), ANN)
        with pytest.raises(PromptNotFound):
            await registry.roll_back(TRIAGE, "canary", ANN)

    in_registry(database, body)


def test_changes_are_told_in_order_and_once(database: Database) -> None:
    async def body(registry: StoredPrompts) -> None:
        await two_versions(registry)
        for shares in (ALL_TO_1, ALL_TO_2):
            await registry.point(TRIAGE, Pointed("production", shares), ANN)

        told = await registry.changes(0)
        assert [each.revision for each in told.changes] == [1, 2, 4], "a label's past is left out"
        assert told.changes[-1].what == Pointed("production", ALL_TO_2)
        assert (told.revision, told.whole) == (4, True)
        assert await registry.changes(4) == Changes([], 4, whole=True)
        await registry.roll_back(TRIAGE, "production", ANN)
        assert [each.what for each in (await registry.changes(4)).changes] == [
            Pointed("production", ALL_TO_1)
        ]

    in_registry(database, body)


def test_many_changes_are_told_in_turns(database: Database) -> None:
    async def body(registry: StoredPrompts) -> None:
        for _ in range(501):
            await registry.create(TRIAGE, Wanted(0, content("x")), ANN)

        first = await registry.changes(0)
        rest = await registry.changes(first.revision)

        assert (len(first.changes), first.whole) == (500, False)
        assert ([each.revision for each in rest.changes], rest.whole) == ([501], True)

    in_registry(database, body)


def test_a_refusal_changes_nothing(database: Database) -> None:
    async def body(registry: StoredPrompts) -> None:
        with pytest.raises(InvalidPrompt):
            await registry.create(TRIAGE, Wanted(7, content()), ANN)

        assert await registry.summaries("acme", "") == ()
        assert await registry.changes(0) == Changes([], 0, whole=True)

    in_registry(database, body)


def test_a_database_that_is_away_is_said_to_be() -> None:
    absent = Database("postgresql+psycopg://nobody@127.0.0.1:1/none")

    async def body(registry: StoredPrompts) -> None:
        with pytest.raises(RegistryUnreachable):
            await registry.changes(0)

    in_registry(absent, body)
    absent.close()
