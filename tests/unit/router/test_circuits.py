"""Who fails again and again is left alone for a while, and tried again by one request."""

from hypothesis import given
from hypothesis import strategies as st

from services.router.core.circuits import (
    OPENS_AFTER,
    TRIED_AGAIN_AFTER_S,
    Circuits,
    Outcome,
    outcomes,
)
from services.router.core.endings import Code
from services.router.core.picking import Filter
from tests.unit.router.values import A, B, demand, ended, endpoints, pool, tenant

NOW_S = 100.0


def broken(address: str = A) -> Circuits:
    circuits = Circuits()
    for began in range(OPENS_AFTER):
        fails(circuits, began_s=1.0 + began, address=address)
    return circuits


def fails(circuits: Circuits, *, began_s: float, address: str = A, now_s: float = NOW_S) -> None:
    circuits.learn(Outcome(address, succeeded=False), began_s=began_s, now_s=now_s)


def succeeds(circuits: Circuits, *, began_s: float) -> None:
    circuits.learn(Outcome(A, succeeded=True), began_s=began_s, now_s=NOW_S)


def test_a_few_failures_in_a_row_open_it() -> None:
    circuits = Circuits()
    for began in range(OPENS_AFTER):
        assert not circuits.is_open(A, NOW_S)
        fails(circuits, began_s=1.0 + began)

    assert circuits.is_open(A, NOW_S)
    assert not circuits.is_open(B, NOW_S)


def test_one_request_goes_there_after_a_while() -> None:
    circuits = broken()
    later_s = NOW_S + TRIED_AGAIN_AFTER_S

    assert circuits.is_open(A, later_s - 0.01)
    assert not circuits.is_open(A, later_s)
    circuits.sent(A, later_s)
    assert circuits.is_open(A, later_s)
    assert not circuits.is_open(A, later_s + TRIED_AGAIN_AFTER_S)


def test_a_success_closes_it() -> None:
    circuits = broken()
    succeeds(circuits, began_s=50.0)

    assert not circuits.is_open(A, NOW_S)
    fails(circuits, began_s=51.0)
    assert not circuits.is_open(A, NOW_S), "it takes as many failures again"


def test_the_late_end_of_an_old_stream_closes_nothing() -> None:
    circuits = broken()
    succeeds(circuits, began_s=0.5)

    assert circuits.is_open(A, NOW_S)


def test_the_late_word_of_an_old_failure_opens_nothing() -> None:
    circuits = Circuits()
    succeeds(circuits, began_s=50.0)
    for began in range(OPENS_AFTER):
        fails(circuits, began_s=1.0 + began)

    assert not circuits.is_open(A, NOW_S)


def test_a_process_that_was_started_again_begins_anew() -> None:
    circuits = broken()
    circuits.restarted(A)

    assert not circuits.is_open(A, NOW_S)


def test_failures_may_be_told_in_any_order() -> None:
    circuits = Circuits()
    for began_s in (20.0, 21.0, 22.0, 10.0):
        fails(circuits, began_s=began_s)
    succeeds(circuits, began_s=15.0)

    assert circuits.is_open(A, NOW_S)


def test_each_change_is_told_once() -> None:
    told: list[tuple[str, bool]] = []
    circuits = Circuits(lambda address, is_open: told.append((address, is_open)))
    for began in range(2 * OPENS_AFTER):
        fails(circuits, began_s=1.0 + began)
    succeeds(circuits, began_s=50.0)
    succeeds(circuits, began_s=51.0)

    assert told == [(A, True), (A, False)]


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 30)), max_size=30))
def test_it_is_open_as_the_requests_in_the_order_of_their_beginnings_say(
    events: list[tuple[bool, int]],
) -> None:
    circuits = Circuits()
    for succeeded, began in events:
        circuits.learn(Outcome(A, succeeded=succeeded), began_s=began, now_s=NOW_S)

    last_success = max((began for succeeded, began in events if succeeded), default=0)
    failed_since = [
        began
        for at, (succeeded, began) in enumerate(events)
        if not succeeded
        and began > last_success
        and began > max((b for s, b in events[:at] if s), default=0)
    ]
    assert circuits.is_open(A, NOW_S) == (len(failed_since[-OPENS_AFTER:]) >= OPENS_AFTER)


def test_what_was_retried_failed_where_it_was_sent_first() -> None:
    end = ended(endpoint=B, attempts=2)

    assert [*outcomes([A, B], end)] == [Outcome(A, succeeded=False), Outcome(B, succeeded=True)]


def test_what_never_got_an_answer_failed_at_the_last_one_too() -> None:
    end = ended(endpoint=B, attempts=2, usage=None, first_token_s=None, grpc_code=Code.UNAVAILABLE)

    assert [*outcomes([A, B], end)] == [Outcome(A, succeeded=False), Outcome(B, succeeded=False)]


def test_one_request_fails_at_one_endpoint_once() -> None:
    end = ended(attempts=2, usage=None, first_token_s=None, grpc_code=Code.UNAVAILABLE)

    assert [*outcomes([A], end)] == [Outcome(A, succeeded=False)]


def test_a_caller_who_leaves_and_a_runtimes_refusal_say_nothing() -> None:
    for code in (Code.CANCELLED, Code.RESOURCE_EXHAUSTED, Code.DEADLINE_EXCEEDED):
        end = ended(usage=None, first_token_s=None, grpc_code=code)
        assert [*outcomes([A, B], end)] == []


def test_an_open_circuit_is_left_out_unless_nothing_else_is_left() -> None:
    def order(*open_: str) -> list[str]:
        out = dict.fromkeys(open_, "circuit open")
        seen = pool(endpoints(A, B), None, Filter(lambda _: out))
        return [*seen.pick(demand(), tenant()).addresses]

    assert order() == [A, B]
    assert order(A) == [B]
    assert order(A, B) == [A, B]


def test_open_circuits_are_known_by_their_addresses() -> None:
    circuits = broken()
    assert circuits.open(NOW_S) == {A: "circuit open"}
    assert circuits.open(NOW_S + TRIED_AGAIN_AFTER_S) == {}

    circuits.restarted(A)
    assert circuits.open(NOW_S) == {}

    again = broken()
    succeeds(again, began_s=NOW_S)
    assert again.open(NOW_S) == {}
