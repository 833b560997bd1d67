"""What is told of a resumable stream, and when."""

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenflow.inference.v1 import inference_service_pb2 as pb
from services.runtime.core.engine import FinishReason, InvalidInput, Job, Step
from services.runtime.core.resuming import Told, check_resumed
from services.runtime.core.sampling import Sampling
from services.runtime.core.simulated_text import Answer
from services.runtime.core.simulation import Behaviour
from services.runtime.outbound.simulated import SimulatedEngine
from tests.fakes.runtime_mesh import asking, owner, plain, running

LAST = FinishReason.LENGTH
QUICK = Behaviour(step_s=0.001, kv_blocks=64, max_context_tokens=1024, max_running=4)
RESUMABLE = owner(resumable="1")


@given(st.lists(st.booleans(), max_size=30))
def test_text_and_tokens_go_out_together(whole: list[bool]) -> None:
    """Token n writes "n,"; the engine knows at some of them that nothing is held back."""
    told, made, ids = Told(), list[Step](), list[int]()
    for n, is_whole in enumerate(whole):
        ids.append(n)
        step = told.step(Step(f"{n},", 1, ids=tuple(ids) if is_whole else ()))
        ids = [] if is_whole else ids
        made.append(step)
        so_far = [i for each in made for i in each.ids or ()]
        assert "".join(each.text for each in made) == "".join(f"{i}," for i in so_far)
        assert sum(each.tokens for each in made) == len(so_far)
    made.append(told.step(Step("end", 1, finish_reason=LAST)))

    assert (
        "".join(each.text for each in made) == "".join(f"{n}," for n in range(len(whole))) + "end"
    )
    assert sum(each.tokens for each in made) == len(whole) + 1
    assert not made[-1].ids


def test_tokens_that_wrote_nothing_are_counted_in_the_end() -> None:
    told = Told()

    steps = [told.step(Step("", 1)), told.step(Step("a", 1, ids=(7,)))]
    last = told.step(Step("", 0, finish_reason=LAST))

    assert [(step.text, step.tokens) for step in (*steps, last)] == [("", 0), ("a", 1), ("", 1)]


def test_an_engine_that_can_not_say_its_tokens_holds_nobody_up() -> None:
    told = Told()

    steps = [
        told.step(Step("", 1)),
        told.step(Step("🌊", 1, ids=None)),
        told.step(Step("a", 1, ids=(7,))),
    ]

    assert [(step.text, step.tokens, step.ids) for step in steps] == [
        ("", 0, ()),
        ("🌊", 2, ()),
        ("a", 1, ()),
    ]


@pytest.mark.parametrize(("ids", "schema"), [([1, 2, 3], False), ([1], True)])
def test_what_can_not_be_carried_on_is_refused(ids: Sequence[int], schema: bool) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_resumed(ids, follows_schema=schema, max_output_tokens=2)

    assert refused.value.field == "resumed"


async def generate(
    folder: Path, request: pb.GenerateRequest, metadata: tuple[tuple[str, str], ...] = RESUMABLE
) -> tuple[list[pb.GenerateResponse], dict[str, str]]:
    engine = SimulatedEngine(QUICK)
    async with running(folder, engine) as runtime, runtime.called_by("gateway") as stubs:
        call = stubs.inference.Generate(request, metadata=metadata, timeout=5)
        return [event async for event in call], plain(await call.trailing_metadata())


def ids_of(events: Sequence[pb.GenerateResponse]) -> list[int]:
    return [i for event in events for i in event.delta.token_ids]


def text_of(events: Sequence[pb.GenerateResponse]) -> str:
    return "".join(event.delta.text for event in events)


def test_only_who_may_be_carried_on_gets_tokens(tmp_path: Path) -> None:
    request = asking(max_output_tokens=5, temperature=0, ignore_eos=True)

    events, _ = asyncio.run(generate(tmp_path / "may", request))
    others, _ = asyncio.run(generate(tmp_path / "may-not", request, owner()))

    assert events[0].started.resumable
    assert len(ids_of(events)) == 4, "the last delta has none"
    assert not others[0].started.resumable
    assert ids_of(others) == []
    assert text_of(others) == text_of(events)


def test_a_stream_that_follows_a_schema_is_not_resumable(tmp_path: Path) -> None:
    request = asking(max_output_tokens=50, json_schema='{"type": "object"}')

    events, _ = asyncio.run(generate(tmp_path, request))

    assert not events[0].started.resumable
    assert ids_of(events) == []


def test_usage_is_the_whole_answer_s_and_trailers_tell_what_was_done(tmp_path: Path) -> None:
    request = asking(max_output_tokens=20, temperature=0, ignore_eos=True)
    whole, _ = asyncio.run(generate(tmp_path / "whole", request))
    request.resume.token_ids[:] = ids_of(whole)[:8]

    rest, trailers = asyncio.run(generate(tmp_path / "rest", request))

    assert ids_of(whole)[:8] + ids_of(rest) == ids_of(whole)
    assert text_of(whole).endswith(text_of(rest))
    assert rest[-1] == whole[-1]
    prompt_tokens = whole[-1].finished.usage.prompt_tokens
    assert trailers["x-evenflow-output-tokens"] == "12"
    assert trailers["x-evenflow-prompt-tokens"] == str(prompt_tokens + 8)


def test_an_answer_that_lacks_only_its_end_gets_it(tmp_path: Path) -> None:
    request = asking(max_output_tokens=4, ignore_eos=True)
    request.resume.token_ids[:] = [100, 101, 102, 103]

    events, trailers = asyncio.run(generate(tmp_path, request))

    assert events[0].started.resumable
    assert text_of(events) == ""
    assert events[-1].finished.reason == pb.FINISH_REASON_LENGTH
    assert events[-1].finished.usage.output_tokens == 4
    assert trailers["x-evenflow-output-tokens"] == "0"


def test_tokens_that_another_answer_had_are_followed_too(tmp_path: Path) -> None:
    """As with a seedless sampled one: the rest differs, and is whole text of the right length."""
    request = asking(max_output_tokens=12, ignore_eos=True)
    request.resume.token_ids[:] = [100, 101, 102]

    events, _ = asyncio.run(generate(tmp_path, request))

    assert "\ufffd" not in text_of(events)
    assert sum(event.delta.tokens for event in events) == 9


def test_the_simulation_tells_no_half_of_anything() -> None:
    """A wave takes two tokens, and each "and" may begin the stop string."""
    sampling = Sampling(temperature=0, stop=("and so on",), ignore_eos=True)
    job = Job("r-1", [1], 600, sampling, 0, "", resumable=True)
    written = Answer(job, random.Random(1), mean_tokens=600)  # noqa: S311 - it must repeat

    told, text = dict[tuple[int, ...], str](), ""
    for _ in range(600):
        text += written.write()[0]
        if ids := tuple(written.ids()):
            assert text == told.setdefault(ids, text), "the same tokens write the same"
            assert text.isascii() or text == " été" or len(ids) > 1
            text = ""

    assert {" 🌊", " and runs"} <= set(told.values())
    assert "" not in told.values()
