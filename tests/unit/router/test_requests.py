import pytest

from services.router.core.inflight import Load, Slot
from services.router.core.requests import Request, Requests, UnknownRequest
from tests.unit.router.values import A, decision, ended

SLOT = Slot(A, 100, expires_at_s=60.0)


def test_an_end_frees_the_slot_and_completes_the_record() -> None:
    requests = Requests()
    requests.admit(decision(), SLOT)
    assert requests.load(A) == Load(100, 1)

    assert requests.end(ended()) == Request(decision(), ended())
    assert requests.load(A) == Load(0, 0)
    assert requests.find("r1") == Request(decision(), ended())


def test_a_repeated_end_is_nothing_new() -> None:
    requests = Requests()
    requests.admit(decision(), SLOT)
    requests.end(ended())

    assert requests.end(ended()) is None


def test_an_end_that_comes_after_the_deadline_still_completes_the_record() -> None:
    requests = Requests()
    requests.admit(decision(), SLOT)
    assert requests.expire(60.0) == [Request(decision())]

    assert requests.end(ended()) == Request(decision(), ended())
    assert requests.load(A) == Load(0, 0)


def test_a_restart_frees_what_was_sent_to_the_process_before() -> None:
    requests = Requests()
    requests.admit(decision(), SLOT)

    assert requests.restarted(A) == [Request(decision())]
    assert requests.load(A) == Load(0, 0)


def test_an_end_without_a_question_is_kept_and_known_once() -> None:
    requests = Requests()

    assert requests.end(ended()) == Request(None, ended())
    assert requests.end(ended()) is None


def test_a_refusal_waits_for_its_end_without_a_slot() -> None:
    requests = Requests()
    requests.note(decision())
    assert requests.running() == 0

    assert requests.end(ended()) == Request(decision(), ended())


def test_the_oldest_that_are_over_are_forgotten_and_those_that_run_are_not() -> None:
    requests = Requests(kept=2)
    requests.admit(decision("running"), SLOT)
    for number in range(3):
        requests.note(decision(f"r{number}"))

    assert requests.find("running").decision is not None
    assert requests.find("r1").decision is not None
    with pytest.raises(UnknownRequest):
        requests.find("r0")
