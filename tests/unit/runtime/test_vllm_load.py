"""An idle engine sends no statistics: the load is their last word and what we have in flight."""

from dataclasses import dataclass, field

from services.runtime.outbound.vllm_load import Load


@dataclass
class Prefixes:
    queries: int = 0
    hits: int = 0


@dataclass
class Counts:
    num_running_reqs: int = 0
    kv_cache_usage: float = 0.0
    prefix_cache_stats: Prefixes = field(default_factory=Prefixes)


def load_of(jobs: int) -> Load:
    load = Load(max_running=4)
    load.set_kv_cache(blocks=100, block_tokens=32)
    for _ in range(jobs):
        load.enter()
    return load


def test_jobs_wait_until_the_engine_says_that_they_run() -> None:
    load = load_of(jobs=3)
    load.record(Counts(num_running_reqs=2))

    state = load.state(failed=False)

    assert (state.running, state.waiting) == (2, 1)


def test_used_blocks_are_a_share_of_all() -> None:
    load = load_of(jobs=1)
    load.record(Counts(num_running_reqs=1, kv_cache_usage=0.25))

    state = load.state(failed=False)

    assert (state.kv_blocks_free, state.kv_blocks_total) == (75, 100)


def test_the_last_job_takes_the_stale_counts_with_it() -> None:
    load = load_of(jobs=1)
    load.record(Counts(num_running_reqs=1, kv_cache_usage=0.25))

    load.leave()

    state = load.state(failed=False)
    assert (state.running, state.waiting, state.kv_blocks_free) == (0, 0, 100)


def test_counts_of_a_step_that_outlived_its_jobs_are_stale() -> None:
    load = load_of(jobs=0)

    load.record(Counts(num_running_reqs=1, kv_cache_usage=0.25))

    state = load.state(failed=False)
    assert (state.running, state.kv_blocks_free) == (0, 100)


def test_no_more_jobs_run_than_are_in_flight() -> None:
    load = load_of(jobs=2)
    load.record(Counts(num_running_reqs=2))

    load.leave()

    state = load.state(failed=False)
    assert (state.running, state.waiting) == (1, 0)


def test_prefix_counts_add_up_even_when_idle() -> None:
    load = load_of(jobs=0)

    for _ in range(2):
        load.record(Counts(prefix_cache_stats=Prefixes(queries=400, hits=384)))

    state = load.state(failed=False)
    assert (state.prefix_cache_query_tokens, state.prefix_cache_hit_tokens) == (800, 768)


def test_output_tokens_add_up() -> None:
    load = load_of(jobs=0)

    load.add_output(3)
    load.add_output(2)

    assert load.state(failed=False).output_tokens == 5


def test_every_step_is_counted_so_that_a_hang_shows() -> None:
    load = load_of(jobs=1)
    load.record(Counts(num_running_reqs=1))
    load.record(Counts(num_running_reqs=1))

    assert load.state(failed=False).steps == 2
