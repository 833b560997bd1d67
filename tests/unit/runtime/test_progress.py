from typing import Any

from services.runtime.core.engine import EngineState
from services.runtime.core.progress import LOOK_EVERY_S, Progress


def state(*, running: int = 1, waiting: int = 0, steps: int = 0) -> EngineState:
    rest: dict[str, Any] = dict.fromkeys(
        ("kv_blocks_free", "kv_blocks_total", "kv_block_tokens", "max_running", "output_tokens"), 0
    )
    return EngineState(
        running=running,
        waiting=waiting,
        prefix_cache_query_tokens=0,
        prefix_cache_hit_tokens=0,
        steps=steps,
        **rest,
    )


def test_work_without_a_step_adds_up() -> None:
    progress = Progress(now_s=0.0)

    seen = [progress.without_s(state(), look * LOOK_EVERY_S) for look in range(1, 41)]

    assert seen == sorted(seen)
    assert abs(seen[-1] - 40 * LOOK_EVERY_S) < 1e-6


def test_jobs_that_only_wait_are_work_too() -> None:
    progress = Progress(now_s=0.0)

    assert progress.without_s(state(running=0, waiting=1), LOOK_EVERY_S) > 0


def test_any_step_is_progress() -> None:
    progress = Progress(now_s=0.0)
    progress.without_s(state(steps=0), LOOK_EVERY_S)

    assert progress.without_s(state(steps=1), 2 * LOOK_EVERY_S) == 0.0


def test_an_idle_engine_is_not_stuck() -> None:
    progress = Progress(now_s=0.0)
    progress.without_s(state(), LOOK_EVERY_S)

    assert progress.without_s(state(running=0), 2 * LOOK_EVERY_S) == 0.0


def test_a_process_that_was_frozen_does_not_blame_its_engine() -> None:
    progress = Progress(now_s=0.0)

    assert progress.without_s(state(), 3600.0) <= 2 * LOOK_EVERY_S
