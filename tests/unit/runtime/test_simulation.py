"""The simulation's promises: its clock, its repeats, its stragglers, its crashes."""

import asyncio
from contextlib import aclosing

import pytest

from services.runtime.core.engine import EngineFailed, Job
from services.runtime.core.sampling import Sampling
from services.runtime.core.simulation import Behaviour
from services.runtime.outbound.simulated import SimulatedEngine
from tests import virtual_time

CLOCKWORK = Behaviour(
    step_s=0.01, step_per_sequence_s=0.001, prefill_per_token_s=0.002, prefill_chunk_tokens=10
)


def job(name: str = "job", *, prompt_tokens: int = 5, tokens: int = 4) -> Job:
    sampling = Sampling(temperature=0, ignore_eos=True)
    return Job(name, list(range(prompt_tokens)), tokens, sampling, 0, "salt")


async def token_times_s(engine: SimulatedEngine, work: Job) -> list[float]:
    clock = asyncio.get_running_loop().time
    started_s = clock()
    async with aclosing(engine.generate(work)) as steps:
        return [round(clock() - started_s, 6) async for _ in steps]


def test_a_step_takes_as_long_as_the_formula_says() -> None:
    times = virtual_time.run(token_times_s(SimulatedEngine(CLOCKWORK), job()))

    assert times == [0.02, 0.031, 0.042, 0.053]


def test_a_long_prompt_is_read_in_chunks() -> None:
    work = job(prompt_tokens=25, tokens=1)

    times = virtual_time.run(token_times_s(SimulatedEngine(CLOCKWORK), work))

    assert times == [0.03 + 0.03 + 0.02]


def test_a_batch_of_two_takes_longer_than_one() -> None:
    async def scenario() -> list[float]:
        engine = SimulatedEngine(CLOCKWORK)
        async with asyncio.TaskGroup() as tasks:
            works = [tasks.create_task(token_times_s(engine, job(name))) for name in "ab"]
        return works[0].result()

    # The first job's step began before the second came
    assert virtual_time.run(scenario()) == [0.02, 0.041, 0.053, 0.065]


def test_a_straggler_is_late_and_only_it() -> None:
    behaviour = Behaviour(step_s=0.01, straggler_share=0.3, straggler_s=1.0)

    async def scenario() -> list[bool]:
        engine = SimulatedEngine(behaviour)
        async with asyncio.TaskGroup() as tasks:
            works = [tasks.create_task(token_times_s(engine, job(str(n)))) for n in range(50)]
        return [work.result()[0] >= 1.0 for work in works]

    late = virtual_time.run(scenario())

    assert 5 < sum(late) < 25
    assert late == virtual_time.run(scenario()), "the same seed simulates the same"


async def gets_through(engine: SimulatedEngine, work: Job) -> bool:
    try:
        await token_times_s(engine, work)
    except EngineFailed:
        return False
    return True


def test_a_lost_request_fails_alone() -> None:
    async def scenario() -> list[bool]:
        engine = SimulatedEngine(Behaviour(step_s=0.01, lost_share=0.5))
        outcomes = [await gets_through(engine, job(str(n))) for n in range(20)]
        assert engine.state().kv_blocks_free == engine.state().kv_blocks_total
        return outcomes

    assert set(virtual_time.run(scenario())) == {True, False}


def test_a_crash_takes_everything_with_it() -> None:
    async def scenario() -> tuple[list[bool], bool]:
        engine = SimulatedEngine(Behaviour(step_s=0.01, crash_after_tokens=6, max_running=2))
        async with asyncio.TaskGroup() as tasks:
            works = [
                tasks.create_task(gets_through(engine, job(str(n), tokens=9))) for n in range(3)
            ]
        later = await gets_through(engine, job("later"))
        return [*(work.result() for work in works), later], engine.state().failed

    assert virtual_time.run(scenario()) == ([False] * 4, True)


def test_blocks_that_cannot_hold_one_request_are_refused() -> None:
    with pytest.raises(ValueError, match="must hold"):
        Behaviour(kv_blocks=10, kv_block_tokens=16, max_context_tokens=161)
