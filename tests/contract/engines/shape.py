"""How every engine is set up for the suite, and the one way in which tests drive it."""

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from services.runtime.core.engine import Engine, FinishReason, Job, Message, Step
from services.runtime.core.sampling import Sampling

MAX_CONTEXT_TOKENS = 512
MAX_RUNNING = 4

GREEDY = Sampling(temperature=0.0)
ON_AND_ON = Sampling(temperature=0.0, ignore_eos=True)

_ids = itertools.count()


def job(
    prompt: Sequence[int],
    *,
    max_output_tokens: int = 16,
    sampling: Sampling = GREEDY,
    priority: int = 0,
    cache_salt: str = "a",
    resumed: Sequence[int] = (),
    resumable: bool = False,
) -> Job:
    """`max_output_tokens`: of the whole answer, what was resumed included."""
    return Job(
        request_id=f"job-{next(_ids)}",
        prompt=[*prompt, *resumed],
        max_output_tokens=max_output_tokens - len(resumed),
        sampling=sampling,
        priority=priority,
        cache_salt=cache_salt,
        resumed=len(resumed),
        resumable=resumable,
    )


@dataclass(frozen=True, slots=True)
class Answer:
    steps: Sequence[Step]

    @property
    def text(self) -> str:
        return "".join(step.text for step in self.steps)

    @property
    def tokens(self) -> int:
        return sum(step.tokens for step in self.steps)

    @property
    def finish_reason(self) -> FinishReason | None:
        return self.steps[-1].finish_reason

    @property
    def cached_prompt_tokens(self) -> int:
        return self.steps[-1].cached_prompt_tokens


async def answer(engine: Engine, work: Job) -> Answer:
    async with aclosing(engine.generate(work)) as steps:
        return Answer([step async for step in steps])


async def chat(engine: Engine, text: str) -> Sequence[int]:
    return await engine.encode_chat([Message("user", text)])


async def long_prompt(engine: Engine, tokens: int, *, about: str) -> Sequence[int]:
    """Exactly so many tokens; another text for another `about`."""
    text = " ".join(f"{about} number {n} stands here." for n in range(tokens))
    return (await engine.encode_text(text))[:tokens]


@asynccontextmanager
async def begun(engine: Engine, work: Job) -> AsyncIterator[Step]:
    """The job runs while the block does, from its first step to wherever it has got."""
    async with aclosing(engine.generate(work)) as steps:
        yield await anext(steps)
