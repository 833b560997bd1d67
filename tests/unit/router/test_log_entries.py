"""How each request ended, out of what Envoy logs."""

from typing import Any

import pytest
from envoy.data.accesslog.v3.accesslog_pb2 import HTTPAccessLogEntry
from hypothesis import given
from hypothesis import strategies as st

from services.router.core.endings import Code, Cut, Usage, final_code
from services.router.inbound.log_entries import ended
from services.router.inbound.resources.names import ROUTER_CLUSTER
from tests.unit.router.values import GENERATE

USAGE: dict[str, Any] = {
    "x-evenflow-prompt-tokens": "10",
    "x-evenflow-cached-tokens": "4",
    "x-evenflow-output-tokens": "20",
}


def entry(*flags: str, http: int = 200, body_bytes: int = 500, **trailers: Any) -> Any:
    logged = HTTPAccessLogEntry()
    common = logged.common_properties
    common.start_time.FromMilliseconds(1_500)
    common.duration.FromMilliseconds(900)
    common.time_to_first_upstream_rx_byte.FromMilliseconds(125)
    common.upstream_remote_address.socket_address.address = "127.0.0.1"
    common.upstream_remote_address.socket_address.port_value = 9101
    common.upstream_request_attempt_count = 2
    for flag in flags:
        setattr(common.response_flags, flag, True)
    logged.request.path = GENERATE
    logged.request.request_id = "from-envoy"
    logged.response.response_code.value = http
    logged.response.response_body_bytes = body_bytes
    logged.response.response_trailers.update(
        {name.replace("_", "-"): value for name, value in trailers.items()}
    )
    return logged


def test_an_answer_is_read_whole() -> None:
    end = ended(entry(grpc_status="0", **USAGE))

    assert (end.request_id, end.method, end.endpoint) == ("from-envoy", GENERATE, "127.0.0.1:9101")
    assert (end.began_unix_s, end.duration_s, end.first_token_s) == (1.5, 0.9, 0.125)
    assert (end.grpc_code, end.attempts) == (Code.OK, 2)
    assert end.usage == Usage(10, 4, 20)


def test_what_the_router_answers_itself_went_to_no_runtime() -> None:
    logged = entry(grpc_status="0", **USAGE)
    logged.common_properties.upstream_cluster = ROUTER_CLUSTER

    assert ended(logged).attempts == 0


def test_the_routers_own_id_for_the_request_wins() -> None:
    logged = entry(grpc_status="0")
    logged.request.request_headers["x-evenflow-request-id"] = "from-check"

    assert ended(logged).request_id == "from-check"


def test_a_failure_before_the_first_token_has_no_first_token() -> None:
    end = ended(entry(body_bytes=0, grpc_status="14", x_evenflow_reason="ENGINE_FAILED"))

    assert (end.grpc_code, end.reason) == (Code.UNAVAILABLE, "ENGINE_FAILED")
    assert end.first_token_s is None


def test_a_failure_that_was_told_in_headers_is_read() -> None:
    logged = entry(body_bytes=0)
    logged.response.response_headers["grpc-status"] = "9"

    assert ended(logged).grpc_code == Code.FAILED_PRECONDITION


def test_a_caller_who_left_in_mid_stream_had_a_first_token() -> None:
    end = ended(entry("downstream_remote_reset"))

    assert end.grpc_code == Code.CANCELLED
    assert end.first_token_s == 0.125
    assert end.usage is None


@pytest.mark.parametrize(
    ("flag", "code"),
    [
        ("downstream_connection_termination", Code.CANCELLED),
        ("upstream_max_stream_duration_reached", Code.DEADLINE_EXCEEDED),
        ("upstream_remote_reset", Code.UNAVAILABLE),
        ("upstream_connection_failure", Code.UNAVAILABLE),
        ("no_healthy_upstream", Code.UNAVAILABLE),
    ],
)
def test_without_a_status_it_is_who_cut_the_stream_that_counts(flag: str, code: Code) -> None:
    assert ended(entry(flag)).grpc_code == code


@pytest.mark.parametrize(
    ("said", "cut", "http", "code"),
    [
        (0, Cut.NOBODY, 200, Code.OK),
        (8, Cut.NOBODY, 429, Code.RESOURCE_EXHAUSTED),
        (8, Cut.CALLER, 200, Code.RESOURCE_EXHAUSTED),
        (0, Cut.CALLER, 200, Code.CANCELLED),
        (None, Cut.NOBODY, 200, Code.OK),
        (None, Cut.NOBODY, 413, Code.RESOURCE_EXHAUSTED),
        (None, Cut.NOBODY, 418, Code.INVALID_ARGUMENT),
        (None, Cut.NOBODY, 503, Code.UNAVAILABLE),
        (None, Cut.NOBODY, 500, Code.UNKNOWN),
        (None, Cut.NOBODY, 0, Code.UNKNOWN),
    ],
)
def test_the_final_code_is_the_clearest_word_there_is(
    said: int | None, cut: Cut, http: int, code: Code
) -> None:
    assert final_code(said, cut=cut, http_status=http) == code


@pytest.mark.parametrize("tokens", ["", "-1", "many", "1" * 13])
def test_usage_that_is_no_count_is_none(tokens: str) -> None:
    broken: dict[str, Any] = {**USAGE, "x-evenflow-output-tokens": tokens}

    assert ended(entry(grpc_status="0", **broken)).usage is None


@given(st.dictionaries(st.sampled_from([*USAGE, "grpc-status"]), st.text(max_size=20)))
def test_whatever_is_logged_is_read(trailers: dict[str, Any]) -> None:
    end = ended(entry(**trailers))

    assert 0 <= end.grpc_code <= 16
