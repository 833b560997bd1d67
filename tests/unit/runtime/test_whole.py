"""Steps gathered into the answer that they make together."""

from hypothesis import given
from hypothesis import strategies as st

from services.runtime.core.engine import FinishReason, Step, TokenLogprob
from services.runtime.core.whole import Whole

ROOM_BYTES = 1 << 20
logprobs = st.builds(TokenLogprob, st.text(max_size=2), st.just(-1.0), st.just(()))
steps = st.builds(
    Step,
    text=st.text(max_size=4),
    tokens=st.integers(0, 3),
    logprobs=st.lists(logprobs, max_size=2).map(tuple),
    cached_prompt_tokens=st.just(16),
)
LAST = Step(text=".", tokens=1, finish_reason=FinishReason.LENGTH, cached_prompt_tokens=16)


def gathered(*made: Step, most_bytes: int = ROOM_BYTES) -> Step | None:
    whole = Whole(most_bytes=most_bytes)
    for each in made:
        whole.add(each)
    return whole.step()


@given(st.lists(steps, max_size=20))
def test_it_is_all_that_was_written(made: list[Step]) -> None:
    whole = gathered(*made, LAST)

    assert whole is not None
    assert whole.text == "".join(each.text for each in made) + "."
    assert whole.tokens == sum(each.tokens for each in made) + 1
    assert [*whole.logprobs] == [logprob for each in made for logprob in each.logprobs]
    assert whole.finish_reason is FinishReason.LENGTH
    assert whole.cached_prompt_tokens == 16


def test_without_its_end_it_is_none() -> None:
    assert gathered(Step(text="a", tokens=1)) is None
    assert gathered() is None


def test_a_long_one_is_forgotten_whatever_follows() -> None:
    assert gathered(Step(text="a" * 1000, tokens=1), LAST, most_bytes=500) is None
    many = [Step(text="", tokens=1)] * 10
    assert gathered(*many, LAST, most_bytes=500) is None
