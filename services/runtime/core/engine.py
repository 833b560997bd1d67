"""What the runtime asks of an engine: the port that vLLM, llama.cpp and the simulation implement.

Values only. Nothing here knows gRPC, a clock or an engine's own types.
"""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from services.runtime.core.sampling import Sampling


class InvalidInput(ValueError):
    """The request can't be served as it stands; `field` names what the caller should mend.

    From an engine, `field` is a field of Job or of Sampling, for example "prompt" or
    "json_schema"; the servicers know what the caller calls it.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class ContextTooLong(InvalidInput):
    """Prompt and output don't fit the model's context; send less or ask for less."""


class EngineFailed(Exception):
    """The engine can't go on with this request; another endpoint may."""


class FinishReason(Enum):
    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Message:
    role: str  # "system", "user" or "assistant"
    content: str


def begins_answer(messages: Sequence[Message]) -> bool:
    """Whether the last message is an answer's beginning, which the model writes on."""
    return messages[-1].role == "assistant" and bool(messages[-1].content.strip())


@dataclass(frozen=True, slots=True)
class Job:
    """One request, ready to run: validated, tokenized, with its limits resolved."""

    request_id: str  # unique in this process
    prompt: Sequence[int]  # token ids, at least one
    max_output_tokens: int  # at least 1; prompt and output fit the context
    sampling: Sampling
    priority: int  # lower runs first; engines without priorities ignore it
    cache_salt: str  # partitions the prefix cache; empty: shared
    resumed: int = 0  # the last tokens of `prompt`, which a stream that broke had written
    resumable: bool = False  # steps must have ids; never with a JSON schema


def check_ids(job: Job, *, vocabulary_tokens: int) -> None:
    """Raises InvalidInput with `field` "prompt" or "resumed"."""
    asked = len(job.prompt) - job.resumed
    for field, ids in (("prompt", job.prompt[:asked]), ("resumed", job.prompt[asked:])):
        if ids and not 0 <= min(ids) <= max(ids) < vocabulary_tokens:
            raise InvalidInput(field, f"token ids must be from 0 to {vocabulary_tokens - 1}")


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    token: str
    logprob: float
    alternatives: Sequence[tuple[str, float]]  # likeliest first


@dataclass(frozen=True, slots=True)
class Step:
    """What one engine step made for one job. Only the last has a finish reason."""

    text: str  # whole characters; may be empty
    tokens: int  # how many this step stands for, 0 or more
    logprobs: Sequence[TokenLogprob] = ()
    finish_reason: FinishReason | None = None
    cached_prompt_tokens: int = 0  # cumulative, not per step
    # Of a resumable job: the tokens since the last ids, as soon as they wrote all the text since
    # then and nothing of theirs is held back. Never in the last step, nor of a token without text
    # at the end. None: they can't be told, so the stream can't be carried on from here.
    ids: Sequence[int] | None = ()


@dataclass(frozen=True, slots=True)
class EngineState:
    running: int
    waiting: int
    kv_blocks_free: int
    kv_blocks_total: int
    kv_block_tokens: int
    prefix_cache_query_tokens: int  # since start
    prefix_cache_hit_tokens: int  # since start
    max_running: int
    output_tokens: int  # since start
    steps: int = 0  # since start, of any kind; stands still while the engine hangs
    failed: bool = False  # the engine is dead; the process must be started again


class Engine(Protocol):
    """One model on one engine.

    `start` returns when the model answers. `close` frees everything; it may take seconds.
    """

    name: str  # "vllm", "llamacpp" or "simulated"
    model: str
    version: str
    max_context_tokens: int

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def encode_chat(self, messages: Sequence[Message]) -> Sequence[int]:
        """Token ids of the messages in the model's chat template, ready for an answer.

        Ready for the rest of one, where the last message is the assistant's and has words.
        """

    async def encode_text(self, text: str) -> Sequence[int]:
        """Token ids of plain text; special tokens in it are plain text."""

    def generate(self, job: Job) -> AsyncGenerator[Step, None]:
        """Yields steps in order; the last one has a finish reason.

        Closing or cancelling the generator frees the job's slot and KV blocks within 250 ms,
        before the first token too. It doesn't wait for that: a stream that is cut off 50 ms before
        its deadline must still get its status out in time.

        Raises:
            InvalidInput: the engine refuses a value, before the first step.
            EngineFailed: the engine died or lost the job.
        """

    def state(self) -> EngineState:
        """As it is now; cheap enough to call 50 times a second."""
