"""An engine that works counts its steps, so that one that hangs can be told from a busy one."""

import asyncio
from contextlib import aclosing

from services.runtime.core.engine import Engine
from tests.contract.engines import shape
from tests.contract.engines.conftest import Run
from tests.contract.engines.shape import answer, chat, job, long_prompt
from tests.contract.engines.test_release import is_idle, seconds_until


def test_steps_grow_as_tokens_are_written(engine: Engine, run: Run) -> None:
    async def scenario() -> list[int]:
        prompt = await chat(engine, "Go on and on.")
        work = job(prompt, max_output_tokens=40, sampling=shape.ON_AND_ON)
        counts, written = [engine.state().steps], 0
        async with aclosing(engine.generate(work)) as steps:
            async for step in steps:
                written += step.tokens
                if written >= 10 * len(counts):
                    counts.append(engine.state().steps)
        return counts

    counts = run(scenario())

    assert len(counts) >= 4
    assert counts == sorted(set(counts)), "each ten tokens are steps more"


def test_steps_grow_while_a_prompt_is_read(engine: Engine, run: Run) -> None:
    async def scenario() -> tuple[int, int]:
        prompt = await long_prompt(engine, shape.MAX_CONTEXT_TOKENS - 30, about="steps")
        await seconds_until(engine, is_idle)
        before = engine.state().steps
        async with asyncio.TaskGroup() as group:
            group.create_task(answer(engine, job(prompt, max_output_tokens=1)))
            await seconds_until(engine, lambda state: state.steps > before)
            reading = engine.state()
        return reading.running, engine.state().steps - before

    running, steps = run(scenario())

    assert running == 1, "its first step is over long before its one token is written"
    assert steps >= 2
