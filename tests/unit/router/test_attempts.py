"""Each attempt whose trailers were lost counts once, at the router that knows its request."""

from hypothesis import given, settings
from hypothesis import strategies as st

from services.router.core.attempts import LostAttempts
from services.router.core.inflight import Slot
from services.router.core.requests import Requests
from tests.unit.router.values import A, decision, ended, lost


def test_news_of_a_known_request_is_taken_once() -> None:
    requests = Requests()
    requests.admit(decision("r1"), Slot(A, 100, expires_at_s=60.0))

    assert requests.attempt(lost("r1"))
    assert not requests.attempt(lost("r1"))
    assert requests.attempt(lost("r1", number=2))
    assert requests.other_attempts("r1") == [lost("r1"), lost("r1", number=2)]


def test_it_is_news_after_the_end_too() -> None:
    requests = Requests()
    requests.admit(decision("r1"), Slot(A, 100, expires_at_s=60.0))
    requests.end(ended("r1"))

    assert requests.attempt(lost("r1"))


def test_what_another_routers_request_took_waits_until_its_end_is_heard_of_here() -> None:
    requests = Requests()
    assert not requests.attempt(lost("r1", number=2))
    assert not requests.attempt(lost("r1"))
    assert requests.other_attempts("r1") == []

    requests.end(ended("r1"))
    assert requests.claim("r1") == [lost("r1", number=2), lost("r1")]
    assert requests.claim("r1") == ()
    assert not requests.attempt(lost("r1"))
    assert requests.other_attempts("r1") == [lost("r1"), lost("r1", number=2)]


def test_others_requests_take_bounded_memory() -> None:
    heard = LostAttempts(lambda request_id: request_id == "r1", waiting=3)
    for number in range(10):
        heard.hear(lost(f"other-{number}"))
    for number in range(10):
        assert len(heard.claim(f"other-{number}")) == (number >= 7)


@settings(deadline=None)  # a busy machine is no failure
@given(
    st.lists(
        st.tuples(st.sampled_from(["hear", "know"]), st.sampled_from("abc"), st.integers(1, 3))
    )
)
def test_each_known_requests_attempt_is_taken_exactly_once(
    events: list[tuple[str, str, int]],
) -> None:
    known: set[str] = set()
    heard = LostAttempts(known.__contains__)
    taken: list[tuple[str, int]] = []
    told: set[tuple[str, int]] = set()
    for event, request_id, number in events:
        if event == "know":
            known.add(request_id)
            taken += [(each.request_id, each.number) for each in heard.claim(request_id)]
        else:
            told.add((request_id, number))
            if heard.hear(lost(request_id, number=number)):
                taken.append((request_id, number))
        assert sorted(taken) == sorted(each for each in told if each[0] in known)
