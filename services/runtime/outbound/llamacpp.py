"""llama.cpp inside this process: the embedded engine, for a first start in seconds.

The server that xllamacpp embeds listens on a unix socket in a folder of ours that nobody else can
enter; nothing leaves the process. It knows neither priorities nor salts, so jobs wait and get
their slots here (core/slots.py), and a slot's prefix is reused within one salt only.
"""

import asyncio
import os
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

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
from services.runtime.core.slots import Assignment, Slots
from services.runtime.outbound.llamacpp_http import Completion, Event, call
from services.runtime.outbound.llamacpp_wire import Steps, completion_body, sampling_fields

# Tokens read in one batch, between which a cancel is noticed. 16 cost about a tenth of the prefill
# speed that 64 had, and free a slot in a third of the time.
PREFILL_CHUNK_TOKENS = 16
_BLOCK_TOKENS = 16  # llama.cpp has no blocks; this is the unit we report in


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaCppSettings:
    gguf: Path
    model: str
    version: str
    max_running: int
    max_context_tokens: int
    threads: int
    prefill_chunk_tokens: int = PREFILL_CHUNK_TOKENS


@dataclass(slots=True, eq=False)
class _Stream:
    """A job from the moment it has a slot. `tokens` is what it holds of the KV cache."""

    events: asyncio.Queue[Event | EngineFailed | InvalidInput]
    tokens: int
    completion: Completion | None = None


class LlamaCppEngine:
    name = "llamacpp"

    def __init__(self, settings: LlamaCppSettings) -> None:
        self.model = settings.model
        self.version = settings.version
        self.max_context_tokens = settings.max_context_tokens
        self._settings = settings
        self._slots = Slots(settings.max_running)
        self._turns: dict[str, asyncio.Future[Assignment]] = {}
        self._running: dict[int, _Stream] = {}  # by slot
        self._vocabulary = 0
        self._query_tokens = 0
        self._hit_tokens = 0
        self._output_tokens = 0
        self._steps = 0
        self._failed = False
        self._folder = tempfile.TemporaryDirectory(prefix="evenflow-llamacpp-")  # 0700
        self._socket = Path(self._folder.name) / "server.sock"
        self._server: list[object] = []
        self._jobs = ThreadPoolExecutor(settings.max_running, "llamacpp-job")
        self._calls = ThreadPoolExecutor(2, "llamacpp-call")

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        server = await loop.run_in_executor(self._calls, _server, self._settings, self._socket)
        self._server.append(server)
        models = await self._call("GET", "/models")
        self._vocabulary = models["data"][0]["meta"]["n_vocab"]
        await self._read_something()  # or the first caller waits half a second longer

    async def close(self) -> None:
        for stream in self._running.values():
            if stream.completion is not None:
                stream.completion.cancel()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._jobs.shutdown)
        # The server ends when its last reference does, and takes its time.
        await loop.run_in_executor(self._calls, self._server.clear)
        await loop.run_in_executor(None, self._calls.shutdown)
        self._folder.cleanup()

    async def encode_chat(self, messages: Sequence[Message]) -> Sequence[int]:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        templated = await self._call("POST", "/apply-template", {"messages": turns})
        return await self._tokenize(templated["prompt"], special=True)

    async def encode_text(self, text: str) -> Sequence[int]:
        return await self._tokenize(text, special=False)

    async def generate(self, job: Job) -> AsyncGenerator[Step, None]:
        self._check(job)
        assignment = await self._turn(job)
        stream = self._begin(assignment)
        steps = Steps(job)
        try:
            while True:
                event = await stream.events.get()
                self._steps += 1
                if isinstance(event, EngineFailed | InvalidInput):
                    raise event
                step = await self._told(steps.step(event))
                if step is None:
                    continue
                self._count(stream, step)
                if step.finish_reason is None:
                    yield step
                    continue
                self._hit_tokens += step.cached_prompt_tokens
                self._release(assignment.slot, stream)  # the next turn may come at once
                yield step
                return
        finally:
            if stream.completion is not None:
                stream.completion.cancel()

    def state(self) -> EngineState:
        total = self._settings.max_running * (self.max_context_tokens // _BLOCK_TOKENS)
        used = sum(-(-stream.tokens // _BLOCK_TOKENS) for stream in self._running.values())
        return EngineState(
            running=len(self._running),
            waiting=self._slots.waiting,
            kv_blocks_free=max(0, total - used),
            kv_blocks_total=total,
            kv_block_tokens=_BLOCK_TOKENS,
            prefix_cache_query_tokens=self._query_tokens,
            prefix_cache_hit_tokens=self._hit_tokens,
            max_running=self._settings.max_running,
            output_tokens=self._output_tokens,
            steps=self._steps,
            failed=self._failed,
        )

    async def _read_something(self) -> None:
        first = Job("start", await self.encode_text("a"), 1, Sampling(), 0, "start")
        async with aclosing(self.generate(first)) as steps:
            async for _ in steps:
                pass

    def _check(self, job: Job) -> None:
        tokens = len(job.prompt) + job.max_output_tokens
        if tokens > self.max_context_tokens:
            raise ContextTooLong(
                "prompt", f"prompt and output must fit {self.max_context_tokens}, got {tokens}"
            )
        check_ids(job, vocabulary_tokens=self._vocabulary)
        sampling_fields(job.sampling)  # refuses a schema before the job waits

    async def _turn(self, job: Job) -> Assignment:
        turn: asyncio.Future[Assignment] = asyncio.get_running_loop().create_future()
        self._turns[job.request_id] = turn
        self._slots.queue(job)
        self._assign()
        try:
            return await turn
        except asyncio.CancelledError:
            self._slots.withdraw(job)
            if turn.done() and not turn.cancelled():
                self._slots.free(turn.result().slot)
                self._assign()
            raise
        finally:
            del self._turns[job.request_id]

    def _assign(self) -> None:
        while (assignment := self._slots.assign()) is not None:
            self._turns[assignment.job.request_id].set_result(assignment)

    def _begin(self, assignment: Assignment) -> _Stream:
        loop = asyncio.get_running_loop()
        stream = _Stream(asyncio.Queue(), tokens=len(assignment.job.prompt))
        self._running[assignment.slot] = stream
        self._query_tokens += len(assignment.job.prompt)

        def on_event(event: Event) -> None:
            loop.call_soon_threadsafe(stream.events.put_nowait, event)

        stream.completion = Completion(self._socket, completion_body(assignment), on_event)
        ended = loop.run_in_executor(self._jobs, stream.completion.run)
        ended.add_done_callback(partial(self._ended, assignment.slot, stream))
        return stream

    def _ended(self, slot: int, stream: _Stream, ended: asyncio.Future[None]) -> None:
        error = None if ended.cancelled() else ended.exception()
        if isinstance(error, InvalidInput):
            stream.events.put_nowait(error)
        elif error is not None:
            self._failed = True
            stream.events.put_nowait(EngineFailed(str(error)))
        self._release(slot, stream)

    def _release(self, slot: int, stream: _Stream) -> None:
        if self._running.get(slot) is stream:
            self._steps += 1
            del self._running[slot]
            self._slots.free(slot)
            self._assign()

    def _count(self, stream: _Stream, step: Step) -> None:
        stream.tokens += step.tokens
        self._output_tokens += step.tokens

    async def _told(self, step: Step | None) -> Step | None:
        """With the usual tokens of its text if it lacks its own, which nearly always are these."""
        if step is None or step.ids is not None:
            return step
        ids = await self._tokenize(step.text, special=False)
        answer = await self._call("POST", "/detokenize", {"tokens": ids})
        return replace(step, ids=ids) if answer["content"] == step.text else step

    async def _tokenize(self, text: str, *, special: bool) -> Sequence[int]:
        body = {"content": text, "add_special": False, "parse_special": special}
        answer = await self._call("POST", "/tokenize", body)
        ids: Sequence[int] = answer["tokens"]
        return ids

    async def _call(self, method: str, target: str, body: Mapping[str, Any] | None = None) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._calls, call, self._socket, method, target, body)


def _server(settings: LlamaCppSettings, socket: Path) -> object:
    # OpenMP reads this once, when llama.cpp loads it. Threads that spin while they wait for each
    # other take ten times as long as soon as anything else wants their cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import xllamacpp  # noqa: PLC0415 - not before the line above

    params = xllamacpp.CommonParams()
    params.model.path = str(settings.gguf)
    params.hostnames = [str(socket)]
    params.n_parallel = settings.max_running
    # One token more for each slot than is promised, rounded up by llama.cpp to 256.
    params.n_ctx = settings.max_running * (settings.max_context_tokens + 1)
    params.n_batch = params.n_ubatch = max(settings.prefill_chunk_tokens, settings.max_running)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings.threads
    # Without flash attention a batch of 16 at the end of 2,000 tokens takes 75 ms, with it 120.
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cache_ram_mib = 0  # the prompt cache beside the slots knows no salt
    params.endpoint_slots = True
    params.ui = False
    params.n_threads_http = 2 * settings.max_running + 4
    params.verbosity = -1  # nothing: its log may quote prompts
    try:
        return xllamacpp.Server(params)
    except RuntimeError as error:
        raise EngineFailed(f"llama.cpp can't load {settings.gguf.name}: {error}") from error
