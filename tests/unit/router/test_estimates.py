"""Estimates of prompts meet the runtimes' counts."""

from hypothesis import given
from hypothesis import strategies as st

from services.router.core.demands import Demand, Prompt
from services.router.core.estimates import Estimates
from services.router.core.experience import Experience
from services.router.core.rungs import Degradation
from tests.unit.router.values import decision, demand, ended

COUNTS = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), max_size=60)


def asked(tokens: int, model: str = "small") -> Demand:
    return demand(model=model, prompt=Prompt(tokens, exact=False, chat=True))


def test_an_estimate_nears_what_is_counted() -> None:
    estimates = Estimates()
    for _ in range(200):
        estimates.learn("small", estimated=100, counted=150)

    assert abs(estimates.ratio("small") - 1.5) < 0.05
    assert estimates.corrected(asked(1000)).prompt.tokens in range(1450, 1550)


def test_one_odd_prompt_changes_little() -> None:
    estimates = Estimates()
    estimates.learn("small", estimated=10, counted=40)

    assert estimates.ratio("small") < 1.1


def test_models_are_apart_and_what_is_counted_is_not_corrected() -> None:
    estimates = Estimates()
    for _ in range(200):
        estimates.learn("small", estimated=100, counted=200)

    exact = demand(prompt=Prompt(1000, exact=True))
    assert estimates.corrected(exact) is exact
    assert estimates.corrected(asked(1000, "other")).prompt.tokens == 1000


@given(COUNTS, st.integers(1, 10**6))
def test_whatever_is_counted_a_ratio_stays_sane(counts: list[tuple[int, int]], tokens: int) -> None:
    estimates = Estimates()
    for estimated, counted in counts:
        estimates.learn("small", estimated=estimated, counted=counted)

    assert 0.25 <= estimates.ratio("small") <= 4.0
    corrected = estimates.corrected(asked(tokens))
    assert max(1, tokens // 4 - 1) <= corrected.prompt.tokens <= tokens * 4
    assert corrected.prompt.chat
    assert corrected.output == asked(tokens).output


@given(COUNTS, st.floats(0.3, 3.5))
def test_what_was_odd_is_forgotten(counts: list[tuple[int, int]], ratio: float) -> None:
    estimates = Estimates()
    for estimated, counted in counts:
        estimates.learn("small", estimated=min(estimated, 4000), counted=counted)
    for _ in range(400):
        estimates.learn("small", estimated=1000, counted=round(1000 * ratio))

    assert abs(estimates.ratio("small") / ratio - 1) < 0.05


def test_only_whole_prompts_teach() -> None:
    taught, cut, exact = Experience(), Experience(), Experience()
    said = decision(answering="small", estimate=5)
    shorter = (Degradation("smaller_context", "saturated"),)
    taught.learn(said, ended())
    cut.learn(said, ended(degradations=shorter))
    exact.learn(decision(answering="small", estimate=0), ended())

    assert taught.estimates.ratio("small") > 1.0
    assert cut.estimates.ratio("small") == exact.estimates.ratio("small") == 1.0


def test_the_pace_of_answers_is_learned_from_those_that_went_well() -> None:
    known = Experience()
    known.learn(decision(answering="small"), ended(grpc_code=14))
    assert known.paces.expected_s("small", at_most_tokens=20) == 0.0

    known.learn(decision(answering="small"), ended(first_token_s=0.1, duration_s=0.5))
    assert abs(known.paces.expected_s("small", at_most_tokens=20) - 0.5) < 1e-9


def test_answers_that_were_cut_do_not_make_a_model_terse_nor_keep_it_wordy() -> None:
    known = Experience()
    shorter = (Degradation("smaller_output", "saturated"),)
    said = decision(answering="small", output_tokens=20)
    known.learn(said, ended())
    before_s = known.paces.expected_s("small", at_most_tokens=100)
    known.paces.learn("small", first_token_s=0.1, duration_s=2.1, tokens=101)

    for _ in range(100):
        known.learn(said, ended(degradations=shorter))  # all 20 tokens that it may write
    assert known.paces.expected_s("small", at_most_tokens=100) > before_s

    for _ in range(100):
        known.learn(decision(answering="small", output_tokens=50), ended(degradations=shorter))
    assert abs(known.paces.expected_s("small", at_most_tokens=100) - before_s) < 0.01
