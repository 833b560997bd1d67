"""A continuous-batching engine without a model: how long each step takes and what it makes.

A step reads a chunk of waiting prompts and writes one token for each sequence that has been
read; its length grows with both. Time comes in as `now_s`, seconds on any monotonic clock.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from services.runtime.core.blocks import BlockPool, Lease, block_keys
from services.runtime.core.engine import (
    ContextTooLong,
    EngineFailed,
    EngineState,
    FinishReason,
    Job,
    Step,
    check_ids,
)
from services.runtime.core.simulated_text import VOCABULARY, Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """What to simulate. The defaults resemble a 7B model on one data-centre GPU."""

    step_s: float = 0.012  # every step
    step_per_sequence_s: float = 0.0001  # more for each token written in it
    prefill_per_token_s: float = 0.0001  # more for each prompt token read in it
    prefill_chunk_tokens: int = 512  # prompt tokens read in one step at most
    max_running: int = 64
    kv_blocks: int = 8192
    kv_block_tokens: int = 16
    max_context_tokens: int = 8192
    mean_answer_tokens: int = 128  # where the model would stop by itself
    seed: int = 0
    straggler_share: float = 0.0  # of requests
    straggler_s: float = 1.0  # before their first token
    lost_share: float = 0.0  # of requests, which fail at their first or a later token
    crash_after_tokens: int = 0  # then the whole engine fails; 0: never

    def __post_init__(self) -> None:
        if self.kv_blocks * self.kv_block_tokens < self.max_context_tokens:
            raise ValueError(
                f"{self.kv_blocks} blocks of {self.kv_block_tokens} tokens must hold "
                f"max_context_tokens, got {self.max_context_tokens}"
            )


@dataclass(slots=True, eq=False)
class _Sequence:
    job: Job
    answer: Answer
    arrival: int
    held_until_s: float
    lost_at_token: int | None
    keys: Sequence[int]
    lease: Lease | None = None
    read_tokens: int = 0  # of the prompt, cached ones included
    written_tokens: int = 0
    reading: int = field(default=0)  # prompt tokens in the step under way

    @property
    def is_read(self) -> bool:
        return self.read_tokens == len(self.job.prompt)


class Simulation:
    """Touched by one owner: `begin_step`, wait as long as it says, `finish_step`, again."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._rng = random.Random(behaviour.seed)  # noqa: S311 - a simulation must repeat
        self._pool = BlockPool(behaviour.kv_blocks)
        self._waiting: list[_Sequence] = []
        self._running: dict[str, _Sequence] = {}
        self._stepping: list[_Sequence] = []
        self._arrivals = 0
        self._queried = 0
        self._hit = 0
        self._output = 0
        self._steps = 0
        self.failed = False

    def add(self, job: Job, now_s: float) -> None:
        """Raises InvalidInput or EngineFailed, and then keeps nothing of the job."""
        if self.failed:
            raise EngineFailed("the simulated engine has crashed")
        _check(job, self._behaviour)
        behaviour, rng = self._behaviour, self._rng
        straggles = rng.random() < behaviour.straggler_share
        lost = rng.random() < behaviour.lost_share
        self._arrivals += 1
        self._waiting.append(
            _Sequence(
                job=job,
                answer=Answer(job, self._rng_of(job), mean_tokens=behaviour.mean_answer_tokens),
                arrival=self._arrivals,
                held_until_s=now_s + behaviour.straggler_s if straggles else now_s,
                lost_at_token=rng.randrange(job.max_output_tokens) if lost else None,
                keys=block_keys(
                    job.prompt, block_tokens=behaviour.kv_block_tokens, salt=job.cache_salt
                ),
            )
        )

    def remove(self, request_id: str) -> None:
        """Frees whatever the job holds. Unknown ids are those that have ended."""
        self._waiting = [s for s in self._waiting if s.job.request_id != request_id]
        sequence = self._running.pop(request_id, None)
        if sequence is not None:
            assert sequence.lease is not None
            computed = sequence.read_tokens // self._behaviour.kv_block_tokens
            self._pool.give_back(sequence.lease, computed=computed)

    def begin_step(self, now_s: float) -> float | None:
        """How long the next step takes, in seconds. None: there is nothing to do."""
        self._admit()
        self._stepping = [s for s in self._running.values() if s.held_until_s <= now_s]
        if not self._stepping:
            return self._behaviour.step_s if self._running else None  # stragglers only
        writing = sum(s.is_read for s in self._stepping)
        behaviour = self._behaviour
        return (
            behaviour.step_s
            + behaviour.step_per_sequence_s * writing
            + behaviour.prefill_per_token_s * self._plan_reading()
        )

    def finish_step(self) -> list[tuple[str, Step | EngineFailed]]:
        """What the step made, by request id. Ended jobs are gone from the simulation."""
        made: list[tuple[str, Step | EngineFailed]] = []
        self._steps += 1
        for sequence in self._stepping:
            request_id = sequence.job.request_id
            if self._running.get(request_id) is not sequence:
                continue  # removed while the step was under way
            sequence.read_tokens += sequence.reading
            if sequence.is_read:
                made.append((request_id, self._write(sequence)))
        self._stepping = []
        if 0 < self._behaviour.crash_after_tokens <= self._output:
            return self._crash()
        for request_id, step in made:
            if isinstance(step, EngineFailed) or step.finish_reason is not None:
                self.remove(request_id)
        return made

    def state(self) -> EngineState:
        return EngineState(
            running=len(self._running),
            waiting=len(self._waiting),
            kv_blocks_free=self._pool.free,
            kv_blocks_total=self._pool.total,
            kv_block_tokens=self._behaviour.kv_block_tokens,
            prefix_cache_query_tokens=self._queried,
            prefix_cache_hit_tokens=self._hit,
            max_running=self._behaviour.max_running,
            output_tokens=self._output,
            steps=self._steps,
            failed=self.failed,
        )

    def _rng_of(self, job: Job) -> random.Random:
        sampling = job.sampling
        if sampling.temperature == 0:
            seed = 0
        else:
            seed = self._rng.getrandbits(63) if sampling.seed is None else sampling.seed
        asked = job.prompt[: len(job.prompt) - job.resumed]
        return random.Random(hash((seed, *asked)))  # noqa: S311 - as above

    def _admit(self) -> None:
        """Lowest priority number first, then oldest. The first that has no room holds the rest."""
        self._waiting.sort(key=lambda s: (s.job.priority, s.arrival))
        while self._waiting and len(self._running) < self._behaviour.max_running:
            sequence = self._waiting[0]
            tokens = len(sequence.job.prompt) + sequence.job.max_output_tokens
            blocks = -(-tokens // self._behaviour.kv_block_tokens)
            sequence.lease = self._pool.lease(sequence.keys, blocks)
            if sequence.lease is None:
                return
            sequence.read_tokens = sequence.lease.cached * self._behaviour.kv_block_tokens
            self._queried += len(sequence.job.prompt)
            self._hit += sequence.read_tokens
            self._running[sequence.job.request_id] = sequence
            del self._waiting[0]

    def _plan_reading(self) -> int:
        left = self._behaviour.prefill_chunk_tokens
        for sequence in self._stepping:
            sequence.reading = min(left, len(sequence.job.prompt) - sequence.read_tokens)
            left -= sequence.reading
        return self._behaviour.prefill_chunk_tokens - left

    def _write(self, sequence: _Sequence) -> Step | EngineFailed:
        if sequence.written_tokens == sequence.lost_at_token:
            return EngineFailed("the simulated engine lost the request")
        answer = sequence.answer
        text, logprobs = answer.write()
        sequence.written_tokens += 1
        self._output += 1
        reason = _finish_reason(sequence)
        assert sequence.lease is not None
        return Step(
            text=text + answer.rest() if reason else text,
            tokens=1,
            logprobs=logprobs,
            finish_reason=reason,
            cached_prompt_tokens=sequence.lease.cached * self._behaviour.kv_block_tokens,
            ids=() if reason or not sequence.job.resumable else answer.ids(),
        )

    def _crash(self) -> list[tuple[str, Step | EngineFailed]]:
        self.failed = True
        jobs = [*self._running, *(s.job.request_id for s in self._waiting)]
        for request_id in jobs:
            self.remove(request_id)
        return [(request_id, EngineFailed("the simulated engine crashed")) for request_id in jobs]


def _finish_reason(sequence: _Sequence) -> FinishReason | None:
    if sequence.answer.met_stop:
        return FinishReason.STOP
    if sequence.written_tokens == sequence.job.max_output_tokens:
        return FinishReason.LENGTH
    return FinishReason.STOP if sequence.answer.ended else None


def _check(job: Job, behaviour: Behaviour) -> None:
    tokens = len(job.prompt) + job.max_output_tokens
    if tokens > behaviour.max_context_tokens:
        raise ContextTooLong("prompt", f"must fit {behaviour.max_context_tokens} tokens: {tokens}")
    check_ids(job, vocabulary_tokens=VOCABULARY)
