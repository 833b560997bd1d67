"""A stream that broke is carried on from any of its deltas, and nobody sees where it broke.

Greedy, and asked what has one right answer: what was written token by token is read in one go when
it is carried on, with other roundings, which may decide between two words that are equally likely.
For the same reason each job has a salt of its own.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from services.runtime.core.engine import Engine, FinishReason, InvalidInput, Step
from services.runtime.core.resuming import Told
from services.runtime.core.sampling import Sampling
from tests.contract.engines import shape
from tests.contract.engines.conftest import Run
from tests.contract.engines.shape import answer, chat, job

OUTPUT_TOKENS = 20
QUESTIONS = {
    "words": "Repeat after me: one two three four five six seven eight nine ten eleven twelve.",
    "characters of several tokens": "Repeat after me: 🌊🎉 été 漢字 🌊🎉 漢字 🌊🎉 漢字",
    "an end of its own": "What is the capital of France? Answer in one sentence.",
}
LONGEST = {"an end of its own": 300}
_salts = itertools.count()


@dataclass(frozen=True, slots=True)
class Stream:
    """What a caller was told, delta by delta."""

    deltas: Sequence[Step]

    def before(self, cut: int) -> tuple[str, list[int]]:
        told = self.deltas[:cut]
        return "".join(each.text for each in told), [i for each in told for i in each.ids or ()]

    @property
    def text(self) -> str:
        return self.before(len(self.deltas))[0]

    @property
    def tokens(self) -> int:
        return sum(each.tokens for each in self.deltas)

    @property
    def finish_reason(self) -> FinishReason | None:
        return self.deltas[-1].finish_reason


@dataclass(frozen=True, slots=True)
class Asked:
    engine: Engine
    prompt: Sequence[int]
    sampling: Sampling = shape.GREEDY
    output_tokens: int = OUTPUT_TOKENS

    async def stream(self, *, resumed: Sequence[int] = ()) -> Stream:
        work = job(
            self.prompt,
            max_output_tokens=self.output_tokens,
            sampling=self.sampling,
            cache_salt=f"resume {next(_salts)}",
            resumed=resumed,
            resumable=True,
        )
        told = Told()
        return Stream([told.step(step) for step in (await answer(self.engine, work)).steps])


async def carried_on_everywhere(asked: Asked) -> int:
    """How many cuts there were."""
    whole = await asked.stream()
    cuts = [cut for cut in range(1, len(whole.deltas)) if whole.deltas[cut - 1].ids]
    for cut in cuts:
        text, ids = whole.before(cut)
        if len(ids) == asked.output_tokens:
            continue  # nothing is left to ask of an engine
        rest = await asked.stream(resumed=ids)
        assert (cut, text + rest.text) == (cut, whole.text)
        assert len(ids) + rest.tokens == whole.tokens
        assert rest.finish_reason is whole.finish_reason
    return len(cuts)


@pytest.mark.parametrize("question", QUESTIONS)
def test_it_goes_on_exactly_where_it_broke(engine: Engine, run: Run, question: str) -> None:
    async def scenario() -> int:
        prompt = await chat(engine, QUESTIONS[question])
        longest = LONGEST.get(question, OUTPUT_TOKENS)
        return await carried_on_everywhere(Asked(engine, prompt, output_tokens=longest))

    assert run(scenario()) > 5


def test_a_stop_string_is_met_on_either_side_of_the_cut(engine: Engine, run: Run) -> None:
    async def scenario() -> tuple[int, FinishReason | None]:
        asked = Asked(engine, await chat(engine, QUESTIONS["words"]))
        text = (await asked.stream()).text
        middle = text[len(text) // 2 - 4 : len(text) // 2 + 4]  # across tokens
        stopped = replace(asked, sampling=Sampling(temperature=0, stop=(middle, "no such text")))
        return await carried_on_everywhere(stopped), (await stopped.stream()).finish_reason

    cuts, reason = run(scenario())

    assert cuts > 2
    assert reason is FinishReason.STOP


def test_it_breaks_again_and_again(engine: Engine, run: Run) -> None:
    async def scenario() -> tuple[str, str]:
        asked = Asked(engine, await chat(engine, QUESTIONS["words"]))
        whole = await asked.stream()
        text, ids = "", list[int]()
        for _ in range(3):
            said, more = (await asked.stream(resumed=ids)).before(4)
            text, ids = text + said, ids + more
        return text + (await asked.stream(resumed=ids)).text, whole.text

    broken, whole = run(scenario())

    assert broken == whole


def test_each_token_is_told_once(engine: Engine, run: Run) -> None:
    async def scenario() -> shape.Answer:
        prompt = await chat(engine, QUESTIONS["words"])
        work = job(prompt, sampling=shape.ON_AND_ON, resumable=True)
        return await answer(engine, work)

    steps = run(scenario()).steps

    ids = [i for step in steps for i in step.ids or ()]
    assert 10 < len(ids) <= 16
    assert sum(step.tokens for step in steps) == 16
    assert not steps[-1].ids


def test_others_are_told_no_tokens(engine: Engine, run: Run) -> None:
    async def scenario() -> shape.Answer:
        return await answer(engine, job(await chat(engine, "Say hello.")))

    assert not any(step.ids for step in run(scenario()).steps)


@pytest.mark.parametrize("token", [-1, 2**31 - 1])
def test_a_resumed_token_outside_the_vocabulary_is_refused_by_field(
    engine: Engine, run: Run, token: int
) -> None:
    with pytest.raises(InvalidInput) as refused:
        run(answer(engine, job([1, 2], resumed=[3, token])))

    assert refused.value.field == "resumed"
