import pytest

from services.router.core.writing import Writing


def test_before_anything_is_known_it_takes_no_time() -> None:
    assert Writing().at_least(100) == Writing().usually(100) == 0.0


def test_it_takes_as_long_as_it_did() -> None:
    writing = Writing()
    writing.learn(101, 10.0)

    assert writing.at_least(50) == writing.usually(50) == pytest.approx(5.0)


def test_the_fastest_and_the_usual_are_two_things() -> None:
    writing = Writing()
    for took_s in (10.0, 5.0, 20.0):
        writing.learn(101, took_s)

    assert writing.at_least(1) == pytest.approx(0.05, rel=0.02)
    assert 0.1 < writing.usually(1) < 0.2


def test_what_was_fast_once_is_forgotten() -> None:
    writing = Writing()
    writing.learn(101, 1.0)
    for _ in range(300):
        writing.learn(101, 10.0)

    assert writing.at_least(1) == pytest.approx(0.1)


@pytest.mark.parametrize(("tokens", "took_s"), [(1, 1.0), (7, 1.0), (100, 0.0), (100, -1.0)])
def test_what_tells_nothing_is_not_learned(tokens: int, took_s: float) -> None:
    writing = Writing()
    writing.learn(tokens, took_s)

    assert writing.usually(1) == 0.0
