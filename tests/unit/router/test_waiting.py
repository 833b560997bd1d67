import pytest

from services.router.core.waiting import Pace, Reading


def test_the_pace_is_the_service_given_while_somebody_waited() -> None:
    pace = Pace()
    pace.began(100.0)
    for at in range(1, 51):
        pace.gave(10.0, 100.0 + at * 0.1)

    assert pace.seconds(200.0, 105.0) == pytest.approx(2.0, rel=0.01)


def test_time_in_which_nobody_waited_does_not_count() -> None:
    pace = Pace()
    for began_s in (100.0, 1000.0):
        pace.began(began_s)
        for at in range(1, 21):
            pace.gave(10.0, began_s + at * 0.1)

    assert pace.seconds(200.0, 1002.0) == pytest.approx(2.0, rel=0.01)


def test_a_server_that_stands_still_gets_slower() -> None:
    pace = Pace()
    pace.began(0.0)
    for at in range(1, 21):
        pace.gave(10.0, at * 0.1)

    assert pace.seconds(100.0, 12.0) > 5 * pace.seconds(100.0, 2.0)


def test_nothing_is_predicted_from_a_burst() -> None:
    pace = Pace()
    pace.began(0.0)
    pace.gave(10.0, 0.1)

    assert pace.seconds(10_000.0, 0.2) == 0.0
    assert Pace().seconds(10_000.0, 100.0) == 0.0


def test_reading_is_as_fast_as_it_was_at_its_fastest_of_late() -> None:
    reading = Reading()
    assert reading.seconds(1000) == 0.0

    reading.learn(1000, 2.0)
    reading.learn(1000, 1.0)
    reading.learn(1000, 5.0)

    assert reading.seconds(1000) == pytest.approx(1.0, rel=0.02)


def test_reading_that_has_become_slower_is_noticed() -> None:
    reading = Reading()
    reading.learn(1000, 1.0)
    for _ in range(200):
        reading.learn(1000, 3.0)

    assert reading.seconds(1000) == pytest.approx(3.0)


def test_a_short_or_cached_prompt_says_nothing_about_reading() -> None:
    reading = Reading()

    reading.learn(10, 0.5)
    reading.learn(1000, 0.0)

    assert reading.seconds(1000) == 0.0
