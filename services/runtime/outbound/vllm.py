"""vLLM in this process: one adapter for its CPU build and its GPU build.

AsyncLLM schedules (continuous batching, priorities, prefix cache) and computes in a child process.
The interfaces used are those of vLLM 0.32.0, v1/engine/async_llm.py; the environment variables it
needs are in deploy/vllm/environment.py. It imports only where vLLM is installed.
"""

import asyncio
import multiprocessing
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from vllm.config import VllmConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMClientError
from vllm.inputs import tokens_input
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError
from vllm.v1.metrics.loggers import StatLoggerBase
from vllm.v1.metrics.stats import SchedulerStats

from services.runtime.core.engine import (
    ContextTooLong,
    EngineFailed,
    EngineState,
    InvalidInput,
    Job,
    Message,
    Step,
    check_ids,
)
from services.runtime.core.sampling import Sampling
from services.runtime.outbound.vllm_child import Tie
from services.runtime.outbound.vllm_load import Load
from services.runtime.outbound.vllm_prompts import chat_tokens, text_tokens
from services.runtime.outbound.vllm_resuming import Steps, ends_by_itself
from services.runtime.outbound.vllm_sampling import sampling_params

_RELEASE_PATIENCE_S = 5.0  # for a cancelled job's slot; longer than any step
_STOP_PATIENCE_S = 1.0  # for the child to end by itself; it has nothing to save
_LOOK_AGAIN_S = 0.1  # for a child that is only just being started


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmSettings:
    model_path: Path  # a Hugging Face folder
    model: str
    version: str
    max_context_tokens: int
    max_running: int
    kv_cache_bytes: int | None  # none: what vLLM finds free on its GPU
    kv_block_tokens: int  # a multiple of 32 on a CPU; prefixes are reused in whole blocks
    max_step_tokens: int | None  # a cancel waits for the running step; none: vLLM's choice
    eager: bool  # on a CPU: compiling takes a minute and a C++ compiler


class VllmEngine:
    name = "vllm"

    def __init__(self, settings: VllmSettings) -> None:
        self.model = settings.model
        self.version = settings.version
        self.max_context_tokens = settings.max_context_tokens
        self._settings = settings
        self._load = Load(max_running=settings.max_running)
        self._started: _Started | None = None
        self._releasing: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        before = {child.pid for child in multiprocessing.active_children()}
        building = asyncio.get_running_loop().run_in_executor(None, self._build)
        try:
            llm = await asyncio.shield(building)
        except asyncio.CancelledError:
            await _abandon(building, before)
            raise
        children = _children_besides(before)
        tie = Tie([child.pid for child in children if child.pid is not None])
        self._started = _Started(llm, children, tie, ThreadPoolExecutor(1, "vllm-tokenizer"))
        cache = llm.vllm_config.cache_config
        # One block is vLLM's placeholder and holds nothing
        self._load.set_kv_cache(blocks=cache.num_gpu_blocks - 1, block_tokens=cache.block_size)
        first = Job("start", await self.encode_text("a"), 1, Sampling(), 0, "start")
        async with aclosing(self.generate(first)) as steps:
            async for _ in steps:
                pass

    async def close(self) -> None:
        if self._started is None:
            return
        started, self._started = self._started, None
        started.tokenizing.shutdown(wait=False, cancel_futures=True)
        if self._releasing:
            await asyncio.wait(self._releasing)
        if started.llm.output_handler is not None:
            started.llm.output_handler.cancel()  # or it reports the end of the child as a failure
        await asyncio.to_thread(started.llm.shutdown, _STOP_PATIENCE_S)
        await asyncio.to_thread(_kill, started.children)
        await asyncio.to_thread(started.tie.undo)

    async def encode_chat(self, messages: Sequence[Message]) -> Sequence[int]:
        started = self._live()
        return await asyncio.get_running_loop().run_in_executor(
            started.tokenizing, chat_tokens, started.llm.get_tokenizer(), messages
        )

    async def encode_text(self, text: str) -> Sequence[int]:
        started = self._live()
        return await asyncio.get_running_loop().run_in_executor(
            started.tokenizing, text_tokens, started.llm.get_tokenizer(), text
        )

    async def generate(self, job: Job) -> AsyncGenerator[Step, None]:
        llm = self._live().llm
        self._check(job, vocabulary_tokens=llm.model_config.get_vocab_size())
        self._load.enter()
        held = True  # by the engine, as far as we know
        try:
            async with aclosing(_outputs(llm, job)) as steps:
                async for step in steps:
                    self._load.add_output(step.tokens)
                    held = step.finish_reason is None or ends_by_itself(job)
                    yield step
        except InvalidInput:
            held = False
            raise
        except EngineDeadError as error:
            raise EngineFailed("the engine is dead") from error
        except EngineGenerateError as error:
            raise EngineFailed("the engine lost the request") from error
        finally:
            if held:
                self._release(llm, job.request_id)
            else:
                self._load.leave()

    def state(self) -> EngineState:
        dead = self._started is not None and self._started.llm.errored
        return self._load.state(failed=dead)

    def _build(self) -> AsyncLLM:
        wanted = self._settings
        arguments = AsyncEngineArgs(
            model=str(wanted.model_path),
            served_model_name=wanted.model,
            max_model_len=wanted.max_context_tokens,
            max_num_seqs=wanted.max_running,
            max_num_batched_tokens=wanted.max_step_tokens,
            kv_cache_memory_bytes=wanted.kv_cache_bytes,
            block_size=wanted.kv_block_tokens,
            enforce_eager=wanted.eager,
            enable_prefix_caching=True,
            scheduling_policy="priority",
            enable_log_requests=False,  # it would log prompts
            disable_log_stats=True,  # its own loggers; ours stays
        )
        try:
            return AsyncLLM.from_engine_args(arguments, stat_loggers=[self._stat_logger])
        except (RuntimeError, ValueError, OSError) as error:
            raise EngineFailed(f"vLLM did not start: {error}") from error

    def _stat_logger(self, config: VllmConfig, engine_index: int = 0) -> StatLoggerBase:
        return _StepCounts(self._load)

    def _live(self) -> "_Started":
        if self._started is None:
            raise EngineFailed("the engine is not running")
        return self._started

    def _release(self, llm: AsyncLLM, request_id: str) -> None:
        """The caller doesn't wait, and the slot counts as taken until it is free.

        Not in a TaskGroup: this outlives the request's task. `close` waits for it.
        """
        task = asyncio.get_running_loop().create_task(_released(llm, request_id))
        self._releasing.add(task)
        task.add_done_callback(self._releasing.discard)
        task.add_done_callback(lambda _: self._load.leave())

    def _check(self, job: Job, *, vocabulary_tokens: int) -> None:
        """What vLLM would accept, or answer with an error that names no field."""
        needed = len(job.prompt) + job.max_output_tokens
        if needed > self.max_context_tokens:
            message = f"prompt and output need {needed} of {self.max_context_tokens} tokens"
            raise ContextTooLong("prompt", message)
        check_ids(job, vocabulary_tokens=vocabulary_tokens)


@dataclass(frozen=True, slots=True)
class _Started:
    llm: AsyncLLM
    children: Sequence[BaseProcess]
    tie: Tie
    tokenizing: ThreadPoolExecutor  # one thread: a tokenizer is not safe in two


class _StepCounts(StatLoggerBase):  # type: ignore[misc]  # Any where vLLM isn't installed
    """Called by vLLM after each engine step, on the event loop."""

    def __init__(self, load: Load) -> None:
        self._load = load

    def record(self, scheduler_stats: SchedulerStats | None, *_: object, **__: object) -> None:
        if scheduler_stats is not None:
            self._load.record(scheduler_stats)

    def log_engine_initialized(self) -> None:
        """Nothing to say: the runtime reports its own start."""


async def _outputs(llm: AsyncLLM, job: Job) -> AsyncGenerator[Step, None]:
    prompt = tokens_input(list(job.prompt), cache_salt=job.cache_salt or None)
    try:
        params = sampling_params(job, stop=() if ends_by_itself(job) else job.sampling.stop)
        steps = Steps(job, llm.get_tokenizer())
        outputs = llm.generate(prompt, params, job.request_id, priority=job.priority)
        async with aclosing(outputs):
            async for output in outputs:
                step = steps.step(output)
                yield step
                if step.finish_reason is not None and not output.finished:
                    return
    except VLLMClientError as error:
        # Of what vLLM still refuses, only a schema comes from the caller. Its message may hold
        # the caller's words, so it isn't passed on.
        field = "json_schema" if job.sampling.json_schema is not None else "prompt"
        raise InvalidInput(field, "vLLM can't serve this value") from error


async def _released(llm: AsyncLLM, request_id: str) -> None:
    """Returns when the engine has let go of the request, which is after its running step.

    vLLM aborts by itself when its generator is closed, but not in every await of its way in, and it
    doesn't wait. The engine takes calls in order: when the question is answered, the abort is done.
    """
    with suppress(EngineDeadError, TimeoutError):
        async with asyncio.timeout(_RELEASE_PATIENCE_S):
            await llm.abort(request_id)
            await llm.is_paused()


async def _abandon(building: asyncio.Future[AsyncLLM], before: set[int | None]) -> None:
    """Ends a start that nobody waits for: its thread ends soon after its child."""
    while not building.done():
        _kill(_children_besides(before))
        await asyncio.wait({building}, timeout=_LOOK_AGAIN_S)
    _kill(_children_besides(before))
    building.exception()  # a start without its child has failed, as it should


def _children_besides(before: set[int | None]) -> Sequence[BaseProcess]:
    return [child for child in multiprocessing.active_children() if child.pid not in before]


def _kill(children: Sequence[BaseProcess]) -> None:
    for child in children:
        if child.is_alive():
            child.kill()
        child.join(_STOP_PATIENCE_S)
