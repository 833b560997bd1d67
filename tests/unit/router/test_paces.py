"""How long answers are expected to take."""

import pytest

from services.router.core.paces import Paces


def test_an_answer_takes_its_first_token_and_the_others_that_it_may_have() -> None:
    paces = Paces()
    for _ in range(50):
        paces.learn("m", first_token_s=0.5, duration_s=10.4, tokens=100)

    assert paces.expected_s("m", at_most_tokens=1000) == pytest.approx(10.4)
    assert paces.expected_s("m", at_most_tokens=11) == pytest.approx(1.5)
    assert paces.expected_s("other", at_most_tokens=11) == 0.0


def test_answers_that_were_cut_make_no_model_terse() -> None:
    paces = Paces()
    for _ in range(50):
        paces.learn("m", first_token_s=0.5, duration_s=10.4, tokens=100)
    for _ in range(50):
        paces.learn("m", first_token_s=0.5, duration_s=1.4, tokens=10, cut=True)

    assert paces.expected_s("m", at_most_tokens=1000) == pytest.approx(10.4)
