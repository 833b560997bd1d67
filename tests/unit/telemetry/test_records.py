"""What one request's figures mean, and which figures make no sense."""

from typing import Any

import pytest

from evenflow.inference.v1.inference_service_pb2 import Degradation
from services.telemetry.core.histograms import REQUEST_DURATION_S, Histogram
from services.telemetry.core.records import CODES, InvalidObservation, Usage, WorkloadClass
from services.telemetry.inbound.records import decode
from tests.unit.telemetry.observations import ORDINARY, observed, record


def usage(output_tokens: int) -> Usage:
    return Usage(prompt_tokens=1, cached_prompt_tokens=0, output_tokens=output_tokens)


def test_the_first_token_does_not_count_into_the_time_of_the_others() -> None:
    assert ORDINARY.time_per_output_token_s == pytest.approx((1.1 - 0.1) / 10)


@pytest.mark.parametrize(
    "changes",
    [{"usage": usage(1)}, {"usage": usage(0)}, {"usage": None}, {"time_to_first_token_s": None}],
    ids=["one token", "no token", "no usage", "no first token"],
)
def test_without_a_second_token_there_is_no_time_per_token(changes: dict[str, Any]) -> None:
    assert observed(**changes).time_per_output_token_s is None


@pytest.mark.parametrize(
    "changes",
    [
        {"duration_s": -0.1},
        {"queue_wait_s": float("nan")},
        {"time_to_first_token_s": float("inf")},
        {"code": "FINE"},
        {"attempts": -1},
        {"hedge_won": True},
    ],
    ids=str,
)
def test_what_no_request_can_have_done_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidObservation):
        observed(**changes)


def test_a_record_is_decoded_whole() -> None:
    assert decode(record()) == ORDINARY


def test_degradations_are_decoded_in_order() -> None:
    rungs = [Degradation(rung="a", reason="x"), Degradation(rung="b", reason="y")]

    assert decode(record(degradations=rungs)).degradations == (("a", "x"), ("b", "y"))


def test_what_a_router_leaves_unset_stays_unset() -> None:
    sent = record(grpc_code=7, reason="MODEL_NOT_ALLOWED")
    for field in ("queue_wait", "time_to_first_token", "usage", "workload_class"):
        sent.ClearField(field)

    seen = decode(sent)

    assert (seen.code, seen.workload_class) == ("PERMISSION_DENIED", WorkloadClass.UNKNOWN)
    assert (seen.queue_wait_s, seen.time_to_first_token_s, seen.usage) == (None, None, None)


@pytest.mark.parametrize("code", [-1, len(CODES)])
def test_a_code_that_gRPC_does_not_have_is_refused(code: int) -> None:  # noqa: N802 - its name
    with pytest.raises(InvalidObservation, match="gRPC code"):
        decode(record(grpc_code=code))


def test_an_answer_of_the_cache_took_no_token_of_an_engine() -> None:
    assert decode(record(cached=True)).usage is None


def test_a_histogram_counts_a_value_on_a_bound_as_below_it() -> None:
    histogram = Histogram([1.0, 2.0])
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.add(value)

    assert list(histogram.cumulative()) == [(1.0, 2), (2.0, 3), (float("inf"), 4)]
    assert histogram.sum == 12.0


def test_duration_bounds_are_the_conventions() -> None:
    assert REQUEST_DURATION_S[0] == 0.01
    assert REQUEST_DURATION_S[-1] == pytest.approx(81.92)
