"""What every engine must do: llama.cpp, vLLM and the simulation pass the same tests."""

import asyncio
import json

import pytest

from services.runtime.core.engine import Engine, FinishReason, InvalidInput, Job, Message
from services.runtime.core.sampling import Sampling
from tests.contract.engines import shape
from tests.contract.engines.conftest import Run
from tests.contract.engines.shape import answer, chat, job, long_prompt

PERSON = json.dumps(
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 8},
            "age": {"type": "integer", "minimum": 1, "maximum": 99},
        },
        "required": ["name", "age"],
        "additionalProperties": False,
    }
)


def test_an_engine_says_what_it_is(engine: Engine) -> None:
    assert engine.name in {"simulated", "llamacpp", "vllm"}
    assert engine.model
    assert engine.version
    assert engine.max_context_tokens == shape.MAX_CONTEXT_TOKENS
    assert engine.state().max_running == shape.MAX_RUNNING


def test_only_the_last_step_has_a_finish_reason(engine: Engine, run: Run) -> None:
    async def scenario() -> shape.Answer:
        return await answer(engine, job(await chat(engine, "Say hello.")))

    steps = run(scenario()).steps

    assert [step.finish_reason is not None for step in steps] == [False] * (len(steps) - 1) + [True]


def test_max_output_is_respected_and_counted(engine: Engine, run: Run) -> None:
    async def scenario() -> shape.Answer:
        prompt = await chat(engine, "Count to a thousand.")
        return await answer(engine, job(prompt, max_output_tokens=12, sampling=shape.ON_AND_ON))

    written = run(scenario())

    assert written.finish_reason is FinishReason.LENGTH
    assert written.tokens == 12
    assert written.text


def test_one_token_is_a_whole_answer(engine: Engine, run: Run) -> None:
    async def scenario() -> shape.Answer:
        return await answer(engine, job(await chat(engine, "Count."), max_output_tokens=1))

    written = run(scenario())

    assert (written.tokens, written.finish_reason) == (1, FinishReason.LENGTH)


def test_a_model_that_ends_its_answer_stops(engine: Engine, run: Run) -> None:
    async def scenario() -> shape.Answer:
        prompt = await chat(engine, "What is the capital of France? Answer in one sentence.")
        return await answer(engine, job(prompt, max_output_tokens=300))

    written = run(scenario())

    assert written.finish_reason is FinishReason.STOP
    assert 0 < written.tokens < 300


def test_the_engines_count_of_output_tokens_adds_up(engine: Engine, run: Run) -> None:
    async def scenario() -> tuple[int, int]:
        before = engine.state().output_tokens
        written = await answer(engine, job(await chat(engine, "Hi."), sampling=shape.ON_AND_ON))
        return written.tokens, engine.state().output_tokens - before

    tokens, counted = run(scenario())

    assert tokens == counted == 16


def test_text_ends_before_a_stop_string(engine: Engine, run: Run) -> None:
    async def scenario() -> tuple[shape.Answer, shape.Answer, str]:
        prompt = await chat(engine, "Tell me a story about the sea.")
        whole = await answer(engine, job(prompt, max_output_tokens=40))
        stop = whole.text[20:26]  # inside the text and across tokens
        # Another salt: an engine may compute a reused prefix with other roundings
        sampling = Sampling(temperature=0, stop=(stop,))
        cut = job(prompt, max_output_tokens=40, sampling=sampling, cache_salt="b")
        return whole, await answer(engine, cut), stop

    whole, cut, stop = run(scenario())

    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.finish_reason is FinishReason.STOP


def test_temperature_0_repeats(engine: Engine, run: Run) -> None:
    async def scenario() -> list[str]:
        prompt = await chat(engine, "Name three rivers.")
        return [(await answer(engine, job(prompt, cache_salt=str(n)))).text for n in range(2)]

    first, second = run(scenario())

    assert first == second


def test_a_seed_repeats_and_another_seed_does_not(engine: Engine, run: Run) -> None:
    async def scenario() -> list[str]:
        prompt = await chat(engine, "Write a poem.")
        works = [
            job(prompt, max_output_tokens=24, sampling=Sampling(seed=seed), cache_salt=str(n))
            for n, seed in enumerate((7, 7, 8))
        ]
        return [(await answer(engine, work)).text for work in works]

    first, again, other = run(scenario())

    assert first == again != other


def test_logprobs_come_for_each_token(engine: Engine, run: Run) -> None:
    async def scenario() -> shape.Answer:
        sampling = Sampling(temperature=0, logprobs=3, ignore_eos=True)
        prompt = await chat(engine, "Say hello.")
        return await answer(engine, job(prompt, max_output_tokens=8, sampling=sampling))

    written = run(scenario())

    tokens = [token for step in written.steps for token in step.logprobs]
    assert len(tokens) == written.tokens == 8
    for token in tokens:
        likelihoods = [logprob for _, logprob in token.alternatives]
        assert len(likelihoods) == 3
        assert likelihoods == sorted(likelihoods, reverse=True)
        assert token.logprob <= 0
        assert (token.token, token.logprob) == token.alternatives[0]


def test_no_logprobs_unless_asked_for(engine: Engine, run: Run) -> None:
    async def scenario() -> shape.Answer:
        return await answer(engine, job(await chat(engine, "Say hello.")))

    assert not any(step.logprobs for step in run(scenario()).steps)


def test_output_follows_a_json_schema(engine: Engine, run: Run) -> None:
    async def scenario() -> shape.Answer:
        sampling = Sampling(temperature=0, json_schema=PERSON)
        prompt = await chat(engine, "Describe a person as JSON.")
        return await answer(engine, job(prompt, max_output_tokens=100, sampling=sampling))

    person = json.loads(run(scenario()).text)

    assert set(person) == {"name", "age"}
    assert 1 <= person["age"] <= 99


def test_an_impossible_schema_is_refused_by_field(engine: Engine, run: Run) -> None:
    async def scenario() -> None:
        sampling = Sampling(json_schema='{"type": "no such type"}')
        await answer(engine, job(await chat(engine, "Hi."), sampling=sampling))

    with pytest.raises(InvalidInput) as refused:
        run(scenario())

    assert refused.value.field == "json_schema"


@pytest.mark.parametrize("token", [-1, 2**31 - 1])
def test_a_token_outside_the_vocabulary_is_refused_by_field(
    engine: Engine, run: Run, token: int
) -> None:
    with pytest.raises(InvalidInput) as refused:
        run(answer(engine, job([token])))

    assert refused.value.field == "prompt"


def test_a_refused_job_leaves_nothing_behind(engine: Engine, run: Run) -> None:
    with pytest.raises(InvalidInput):
        run(answer(engine, job([-1])))

    assert (engine.state().running, engine.state().waiting) == (0, 0)


def test_unicode_is_never_split(engine: Engine, run: Run) -> None:
    async def scenario() -> shape.Answer:
        prompt = await chat(engine, "Repeat after me: 🌊🎉🚀 été 漢字 🌊🎉🚀 été 漢字")
        sampling = Sampling(temperature=1.0, seed=3, ignore_eos=True)
        return await answer(engine, job(prompt, max_output_tokens=200, sampling=sampling))

    assert all("\ufffd" not in step.text for step in run(scenario()).steps)


def test_prompt_and_output_may_fill_the_context_exactly(engine: Engine, run: Run) -> None:
    async def scenario() -> shape.Answer:
        prompt = await long_prompt(engine, shape.MAX_CONTEXT_TOKENS - 24, about="edge")
        return await answer(engine, job(prompt, max_output_tokens=24, sampling=shape.ON_AND_ON))

    written = run(scenario())

    assert (written.tokens, written.finish_reason) == (24, FinishReason.LENGTH)


def test_one_token_more_than_the_context_is_refused(engine: Engine, run: Run) -> None:
    async def scenario() -> Job:
        prompt = await long_prompt(engine, shape.MAX_CONTEXT_TOKENS - 24, about="edge")
        return job(prompt, max_output_tokens=25)

    with pytest.raises(InvalidInput) as refused:
        run(answer(engine, run(scenario())))

    assert refused.value.field == "prompt"


def test_more_jobs_than_slots_all_get_their_answer(engine: Engine, run: Run) -> None:
    async def scenario() -> list[shape.Answer]:
        prompt = await chat(engine, "Say hello.")
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(answer(engine, job(prompt, sampling=shape.ON_AND_ON)))
                for _ in range(2 * shape.MAX_RUNNING)
            ]
        return [task.result() for task in tasks]

    answers = run(scenario())

    assert [written.tokens for written in answers] == [16] * 2 * shape.MAX_RUNNING


def test_the_chat_template_adds_to_the_text(engine: Engine, run: Run) -> None:
    text = "What is the capital of France?"

    plain = run(engine.encode_text(text))
    templated = run(chat(engine, text))

    assert len(plain) < len(templated)
    assert run(engine.encode_text(text)) == plain


def test_every_message_adds_to_a_chat(engine: Engine, run: Run) -> None:
    messages = [Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Yes")]

    counts = [len(run(engine.encode_chat(messages[:n]))) for n in (1, 2, 3)]

    assert counts == sorted(set(counts))


def test_an_answer_s_beginning_is_written_on(engine: Engine, run: Run) -> None:
    asked = [Message("user", "What is the capital of France?")]
    begun = "The capital of"

    tokens = run(engine.encode_chat([*asked, Message("assistant", begun)]))

    assert tokens == [*run(engine.encode_chat(asked)), *run(engine.encode_text(begun))]


def test_special_tokens_in_plain_text_are_plain_text(engine: Engine, run: Run) -> None:
    assert len(run(engine.encode_text("<|im_start|>"))) > 1
