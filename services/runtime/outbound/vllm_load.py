"""What vLLM's engine is busy with, from its statistics and our own count of jobs.

The statistics come with engine steps only, so an idle engine's last ones are stale: what is in
flight is our own count, and with nothing in flight nothing is used. Imports nothing of vLLM.
"""

from typing import Protocol

from services.runtime.core.engine import EngineState


class PrefixCacheCounts(Protocol):
    @property
    def queries(self) -> int: ...

    @property
    def hits(self) -> int: ...


class SchedulerCounts(Protocol):
    """The part of vLLM's SchedulerStats that we read; vLLM calls the interface unstable."""

    @property
    def num_running_reqs(self) -> int: ...

    @property
    def kv_cache_usage(self) -> float: ...

    @property
    def prefix_cache_stats(self) -> PrefixCacheCounts: ...


class Load:
    def __init__(self, *, max_running: int) -> None:
        self._max_running = max_running
        self._kv_blocks = 0
        self._kv_block_tokens = 0
        self._in_flight = 0
        self._running = 0
        self._kv_used = 0.0
        self._query_tokens = 0
        self._hit_tokens = 0
        self._output_tokens = 0
        self._steps = 0

    def set_kv_cache(self, *, blocks: int, block_tokens: int) -> None:
        self._kv_blocks = blocks
        self._kv_block_tokens = block_tokens

    def enter(self) -> None:
        self._in_flight += 1

    def leave(self) -> None:
        self._in_flight -= 1
        if self._in_flight == 0:
            self._running = 0
            self._kv_used = 0.0

    def add_output(self, tokens: int) -> None:
        self._output_tokens += tokens

    def record(self, counts: SchedulerCounts) -> None:
        """Takes the counts of one engine step."""
        self._steps += 1
        self._query_tokens += counts.prefix_cache_stats.queries
        self._hit_tokens += counts.prefix_cache_stats.hits
        if self._in_flight:  # else the step was still under way when its last job left
            self._running = counts.num_running_reqs
            self._kv_used = counts.kv_cache_usage

    def state(self, *, failed: bool) -> EngineState:
        running = min(self._running, self._in_flight)
        return EngineState(
            running=running,
            waiting=self._in_flight - running,
            kv_blocks_free=self._kv_blocks - round(self._kv_blocks * self._kv_used),
            kv_blocks_total=self._kv_blocks,
            kv_block_tokens=self._kv_block_tokens,
            prefix_cache_query_tokens=self._query_tokens,
            prefix_cache_hit_tokens=self._hit_tokens,
            max_running=self._max_running,
            output_tokens=self._output_tokens,
            steps=self._steps,
            failed=failed,
        )
