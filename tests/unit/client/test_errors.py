"""Every way a call can fail becomes the one exception that says what to do."""

from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from grpc_status import rpc_status

from evenflow.errors import (
    Cancelled,
    DeadlineExceeded,
    Metadata,
    Progress,
    Refused,
    StreamLost,
    Unreachable,
    error_of,
)
from services.chassis.status import Status, rich_status

HALF = Progress(text="Once upon", tokens=2, request_id="r-1")


@dataclass
class Failed:
    """A failed call, as gRPC shows it."""

    status: grpc.StatusCode
    message: str = ""
    trailers: Metadata = field(default=())

    def code(self) -> grpc.StatusCode:
        return self.status

    def details(self) -> str:
        return self.message

    def trailing_metadata(self) -> Metadata:
        return self.trailers


def refusal(code: grpc.StatusCode, reason: str, **details: Any) -> Failed:
    status = rpc_status.to_status(rich_status(Status(code, reason), "because", **details))
    return Failed(code, "because", tuple(status.trailing_metadata))


def test_a_refusal_says_reason_field_and_when_to_come_back() -> None:
    error = error_of(
        refusal(
            grpc.StatusCode.INVALID_ARGUMENT,
            "FIELD_INVALID",
            field="sampling.top_p",
            retry_after_s=1.5,
        )
    )

    assert isinstance(error, Refused)
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")
    assert (error.field, error.retry_after_s) == ("sampling.top_p", 1.5)
    assert str(error) == "FIELD_INVALID (sampling.top_p): because"


def test_a_refusal_without_details_has_none() -> None:
    error = error_of(refusal(grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND"))

    assert isinstance(error, Refused)
    assert (error.field, error.retry_after_s) == (None, None)


@pytest.mark.parametrize(
    "code",
    [grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN],
)
def test_a_bare_status_after_the_first_token_is_a_lost_stream(code: grpc.StatusCode) -> None:
    error = error_of(Failed(code, "RST_STREAM"), HALF)

    assert isinstance(error, StreamLost)
    assert (error.text, error.tokens, error.request_id) == ("Once upon", 2, "r-1")


def test_a_failure_that_another_try_would_not_mend_is_not_a_lost_stream() -> None:
    error = error_of(refusal(grpc.StatusCode.INTERNAL, "BUG"), HALF)

    assert isinstance(error, Refused)
    assert error.reason == "BUG"


def test_no_answer_at_all_is_unreachable() -> None:
    assert isinstance(error_of(Failed(grpc.StatusCode.UNAVAILABLE, "refused")), Unreachable)


def test_a_deadline_keeps_what_had_arrived() -> None:
    error = error_of(Failed(grpc.StatusCode.DEADLINE_EXCEEDED), HALF)

    assert isinstance(error, DeadlineExceeded)
    assert error.text == "Once upon"


def test_a_cancel_is_a_cancel_before_and_after_the_first_token() -> None:
    for progress in (None, HALF):
        assert isinstance(error_of(Failed(grpc.StatusCode.CANCELLED), progress), Cancelled)


def test_a_foreign_status_keeps_its_code_as_reason() -> None:
    error = error_of(Failed(grpc.StatusCode.UNIMPLEMENTED, "no such method"))

    assert isinstance(error, Refused)
    assert error.reason == "UNIMPLEMENTED"


def test_a_runtime_that_could_say_why_it_broke_off_loses_nothing_that_came() -> None:
    error = error_of(refusal(grpc.StatusCode.UNAVAILABLE, "ENGINE_STALLED"), HALF)

    assert isinstance(error, StreamLost)
    assert (error.reason, error.text) == ("ENGINE_STALLED", "Once upon")


def test_before_the_first_token_the_same_is_a_refusal() -> None:
    error = error_of(refusal(grpc.StatusCode.UNAVAILABLE, "ENGINE_STALLED"))

    assert isinstance(error, Refused)
    assert error.reason == "ENGINE_STALLED"


def test_a_deadline_that_the_mesh_refused_says_why_and_when_to_come_back() -> None:
    error = error_of(
        refusal(grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_UNREACHABLE", retry_after_s=7.0)
    )

    assert isinstance(error, DeadlineExceeded)
    assert (error.reason, error.retry_after_s) == ("DEADLINE_UNREACHABLE", 7.0)


def test_the_callers_own_clock_gives_no_reason() -> None:
    error = error_of(Failed(grpc.StatusCode.DEADLINE_EXCEEDED))

    assert isinstance(error, DeadlineExceeded)
    assert (error.reason, error.retry_after_s) == ("", None)
