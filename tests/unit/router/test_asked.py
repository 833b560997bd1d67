"""What of Envoy's question is believed, and how it is kept within bounds."""

import pytest

from services.router.inbound.asked import Asked, Question, asked
from tests.unit.router.values import GENERATE, KEY, WEB, check_request, on_front_end


def read(question: Question) -> Asked:
    return asked(question, lambda *_: False)


def test_the_mesh_listener_names_a_workload_and_no_key() -> None:
    seen = read(check_request(authorization=f"Bearer {KEY}"))

    assert (seen.spiffe_id, seen.api_key) == (WEB, None)
    assert (seen.request_id, seen.method, seen.received_unix_s) == ("r1", GENERATE, 1_000.0)


def test_the_front_end_names_a_key_and_no_workload() -> None:
    question = on_front_end(check_request())
    question = Question(question.path, {**question.headers, "x-evenflow-peer": WEB}, b"")

    assert (read(question).spiffe_id, read(question).api_key) == (None, KEY)


def test_who_says_nothing_of_the_listener_is_not_on_the_front_end() -> None:
    seen = asked(Question(GENERATE, {"authorization": f"Bearer {KEY}"}, b""), lambda *_: False)

    assert (seen.spiffe_id, seen.api_key) == ("", None)


def test_a_method_is_a_path_without_its_query_and_never_long() -> None:
    assert read(check_request(path=f"{GENERATE}?a=b")).method == GENERATE
    assert len(read(check_request(path="/" + "x" * 5_000)).method) == 200


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [("1H", 3600.0), ("2M", 120.0), ("3S", 3.0), ("4m", 0.004), ("5u", 5e-6), ("6n", 6e-9)],
)
def test_a_deadline_has_grpcs_units(timeout: str, seconds: float) -> None:
    assert read(check_request(grpc_timeout=timeout)).remaining_s() == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("flags", "sampled"), [("00", False), ("01", True), ("02", False), ("03", True)]
)
def test_a_trace_is_sampled_by_its_last_bit(flags: str, sampled: bool) -> None:
    parent = f"00-{'ab' * 16}-{'cd' * 8}-{flags}"

    question = read(check_request(traceparent=parent))

    assert (question.trace_id, question.sampled) == ("ab" * 16, sampled)
