"""A prompt's beginning is read once within a salt, and never taken from another salt's."""

import asyncio

from services.runtime.core.engine import Engine
from tests.contract.engines import shape
from tests.contract.engines.conftest import Run
from tests.contract.engines.shape import answer, job, long_prompt

PROMPT_TOKENS = 160


def test_the_same_salt_reuses_a_prefix(engine: Engine, run: Run) -> None:
    async def scenario() -> list[int]:
        prompt = await long_prompt(engine, PROMPT_TOKENS, about="own")
        works = [job(prompt, cache_salt="owner") for _ in range(2)]
        return [(await answer(engine, work)).cached_prompt_tokens for work in works]

    first, second = run(scenario())

    assert first == 0
    assert PROMPT_TOKENS // 2 < second < PROMPT_TOKENS


def test_a_longer_prompt_reuses_what_it_begins_with(engine: Engine, run: Run) -> None:
    async def scenario() -> int:
        prompt = await long_prompt(engine, PROMPT_TOKENS, about="grows")
        await answer(engine, job(prompt[:120], cache_salt="grower"))
        return (await answer(engine, job(prompt, cache_salt="grower"))).cached_prompt_tokens

    # An engine may keep its own answer too, and the prompt may happen to go on like it.
    assert 80 < run(scenario()) < PROMPT_TOKENS


def test_another_salt_reuses_nothing(engine: Engine, run: Run) -> None:
    async def scenario() -> list[int]:
        prompt = await long_prompt(engine, PROMPT_TOKENS, about="walls")
        salts = [f"tenant {n}" for n in range(2 * shape.MAX_RUNNING)]
        works = [job(prompt, cache_salt=salt) for salt in salts]
        return [(await answer(engine, work)).cached_prompt_tokens for work in works]

    assert run(scenario()) == [0] * 2 * shape.MAX_RUNNING


def test_no_salt_is_a_partition_of_its_own(engine: Engine, run: Run) -> None:
    async def scenario() -> list[int]:
        prompt = await long_prompt(engine, PROMPT_TOKENS, about="unsalted")
        works = [job(prompt, cache_salt=salt) for salt in ("salted", "", "other")]
        return [(await answer(engine, work)).cached_prompt_tokens for work in works]

    assert run(scenario()) == [0, 0, 0]


def test_salts_stay_apart_side_by_side(engine: Engine, run: Run) -> None:
    async def scenario() -> list[int]:
        prompt = await long_prompt(engine, PROMPT_TOKENS, about="crowd")
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(answer(engine, job(prompt, cache_salt=f"crowd {n}")))
                for n in range(2 * shape.MAX_RUNNING)
            ]
        return [task.result().cached_prompt_tokens for task in tasks]

    assert run(scenario()) == [0] * 2 * shape.MAX_RUNNING


def test_hits_are_counted(engine: Engine, run: Run) -> None:
    async def scenario() -> tuple[int, int, int]:
        prompt = await long_prompt(engine, PROMPT_TOKENS, about="counted")
        await answer(engine, job(prompt, cache_salt="counter"))
        before = engine.state()
        again = await answer(engine, job(prompt, cache_salt="counter"))
        after = engine.state()
        return (
            after.prefix_cache_query_tokens - before.prefix_cache_query_tokens,
            after.prefix_cache_hit_tokens - before.prefix_cache_hit_tokens,
            again.cached_prompt_tokens,
        )

    queried, hit, cached = run(scenario())

    assert queried == PROMPT_TOKENS
    assert hit == cached > 0
