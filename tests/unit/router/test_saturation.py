from typing import Any

import pytest

from services.router.core.endpoints import Endpoint, Endpoints, Readiness
from services.router.core.saturation import LATE_S, STALE_S, Saturation
from tests.unit.router.values import SMALL, A, B, model, state

NOW_S = 10.0


def seen(saturation: Saturation, address: str = A, now_s: float = NOW_S, **said: Any) -> None:
    known = Endpoints([address])
    known.saw(address, state(**{"max_running": 4, **said}))
    saturation.saw(known.get(address), now_s)


def room(saturation: Saturation, now_s: float = NOW_S, address: str = A) -> int:
    """How many more it would take, all sent now."""
    taken = 0
    while saturation.takes(address, 0, now_s):
        saturation.sent(address, 0, now_s)
        taken += 1
    for _ in range(taken):
        saturation.freed(address)
    return taken


def test_an_idle_endpoint_takes_what_it_runs_and_one_more() -> None:
    saturation = Saturation()
    seen(saturation)

    assert room(saturation) == 4 + 1


def test_one_that_does_not_say_how_much_it_runs_is_never_full() -> None:
    saturation = Saturation()
    seen(saturation, max_running=0, running=1000, waiting=1000)

    assert saturation.has_room(SMALL, 10**9, NOW_S)


def test_an_unknown_model_or_endpoint_is_nothing_to_wait_for() -> None:
    assert Saturation().has_room(SMALL, 1, NOW_S)
    assert Saturation().takes(A, 1, NOW_S)


def test_what_other_routers_have_sent_counts() -> None:
    saturation = Saturation()
    seen(saturation, running=4, waiting=0)
    assert room(saturation) == 1

    seen(saturation, running=4, waiting=1, now_s=NOW_S + 0.1)
    assert not saturation.has_room(SMALL, 0, NOW_S + 0.1)


def test_what_was_sent_since_the_report_counts_and_an_end_gives_it_back() -> None:
    saturation = Saturation()
    seen(saturation, running=2)
    for _ in range(3):
        saturation.sent(A, 0, NOW_S)
    assert not saturation.takes(A, 0, NOW_S)

    saturation.freed(A)
    assert saturation.takes(A, 0, NOW_S)


def test_what_was_sent_shortly_before_a_report_is_not_taken_for_in_it() -> None:
    saturation = Saturation()
    seen(saturation)
    for _ in range(5):
        saturation.sent(A, 0, NOW_S)

    seen(saturation, running=0, now_s=NOW_S + 0.01)
    assert not saturation.takes(A, 0, NOW_S + 0.01)


def test_ends_that_were_never_told_hold_no_room_for_long() -> None:
    saturation = Saturation()
    seen(saturation)
    for _ in range(5):
        saturation.sent(A, 0, NOW_S)

    seen(saturation, running=0, now_s=NOW_S + 0.2)

    assert saturation.takes(A, 0, NOW_S + 0.2)


def test_an_endpoint_gets_as_many_more_as_end_there_before_it_is_told() -> None:
    saturation = Saturation()
    seen(saturation)
    ends_each_s, report_s = 20, 0.1
    for at in range(100):
        for _ in range(round(ends_each_s * report_s)):
            saturation.sent(A, 0, NOW_S + at * report_s)
            saturation.freed(A)
        seen(saturation, now_s=NOW_S + (at + 1) * report_s)

    assert room(saturation, NOW_S + 10) == 4 + round(ends_each_s * LATE_S)


def test_a_report_that_is_old_says_nothing() -> None:
    saturation = Saturation()
    seen(saturation)

    assert saturation.takes(A, 0, NOW_S + STALE_S)
    assert not saturation.takes(A, 0, NOW_S + STALE_S + 0.01)


def test_a_request_needs_kv_blocks_for_prompt_and_output() -> None:
    saturation = Saturation()
    said: dict[str, Any] = {"kv_blocks_total": 100, "kv_blocks_free": 10, "kv_block_tokens": 16}
    seen(saturation, running=1, **said)
    assert saturation.takes(A, 160, NOW_S)
    assert not saturation.takes(A, 161, NOW_S)

    saturation.sent(A, 100, NOW_S)
    assert saturation.takes(A, 60, NOW_S)
    assert not saturation.takes(A, 61, NOW_S)


def test_where_nothing_runs_no_request_is_too_large() -> None:
    saturation = Saturation()
    seen(saturation, kv_blocks_total=10, kv_blocks_free=10, kv_block_tokens=16)

    assert saturation.takes(A, 10_000, NOW_S)


@pytest.mark.parametrize(
    "gone",
    [
        Endpoint(A, state(max_running=4), reachable=False, tried=True),
        Endpoint(A, state(max_running=4, draining=True), reachable=True, tried=True),
        Endpoint(A, state(model(readiness=Readiness.FAILED), max_running=4), reachable=True),
    ],
    ids=["lost", "draining", "failed"],
)
def test_an_endpoint_out_of_use_is_no_room_for_its_model(gone: Endpoint) -> None:
    saturation = Saturation()
    seen(saturation, A)
    seen(saturation, B, running=4, waiting=4)
    assert saturation.has_room(SMALL, 0, NOW_S)

    saturation.changed(gone)
    assert not saturation.has_room(SMALL, 0, NOW_S)


def test_a_restarted_process_has_nothing_of_what_was_sent_before() -> None:
    saturation = Saturation()
    seen(saturation)
    for _ in range(5):
        saturation.sent(A, 0, NOW_S)
    for _ in range(5):
        saturation.freed(A)

    seen(saturation, instance_id="second", now_s=NOW_S + 0.01)

    assert room(saturation, NOW_S + 0.01) == 4 + 1


def test_room_behind_an_open_circuit_is_none_unless_all_are_open() -> None:
    shut = {A}
    saturation = Saturation(lambda address, _: address in shut)
    seen(saturation, A)
    seen(saturation, B, running=4, waiting=4)
    assert not saturation.has_room(SMALL, 0, NOW_S)

    shut.add(B)
    assert saturation.has_room(SMALL, 0, NOW_S)


def test_room_is_found_beyond_any_number_of_open_circuits() -> None:
    shut = {f"10.0.0.{number}:8000" for number in range(200)}
    saturation = Saturation(lambda address, _: address in shut)
    for each in (*shut, A):
        seen(saturation, each)

    assert any(saturation.has_room(SMALL, 0, NOW_S) for _ in range(4))


def test_others_may_fill_the_same_room_until_the_next_report() -> None:
    saturation = Saturation()
    saturation.routers = 2
    saturation.saw(Endpoint(A, state(max_running=4), reachable=True), NOW_S)

    assert room(saturation) == 3, "of five, and as many by the other"


@pytest.mark.parametrize(("max_running", "kept"), [(15, 0), (16, 1), (64, 4)])
def test_a_sixteenth_stays_free_for_who_has_less_than_its_share(
    max_running: int, kept: int
) -> None:
    saturation = Saturation()
    known = state(max_running=max_running, running=max_running - kept)
    saturation.saw(Endpoint(A, known, reachable=True), NOW_S)

    assert saturation.takes(A, 0, NOW_S)
    assert saturation.has_room(SMALL, 0, NOW_S)
    assert saturation.takes(A, 0, NOW_S, keeping=True) == (kept == 0)
    assert saturation.has_room(SMALL, 0, NOW_S, keeping=True) == (kept == 0)
    full, free = saturation.vacancies(SMALL, keeping=True)
    assert (A in full, A in free) == (kept > 0, kept == 0)
    assert saturation.vacancies(SMALL) == (set(), {A})
    assert saturation.slots(SMALL) == (max_running if kept else 0)
