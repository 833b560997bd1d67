"""A hedge on its way through the router: ordered, reported, paid for once, told to operators."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from envoy.data.accesslog.v3.accesslog_pb2 import AccessLogType
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage

from services.router.core.endpoints import Endpoints, RuntimeState
from services.router.core.first_tokens import FEWEST
from services.router.core.hedge_budget import BURST
from services.router.core.hedging import Hedging
from services.router.core.inflight import Load
from services.router.inbound.access_log import AccessLogServicer
from services.router.inbound.answers import Answer
from services.router.inbound.check import Check
from services.router.inbound.log_entries import Arm, arm, ended
from services.router.inbound.mesh import Mesh
from services.router.inbound.operator import explained
from tests import virtual_time
from tests.unit.router.test_log_entries import USAGE, entry
from tests.unit.router.values import LIMITS, A, B, check_request, generate, lessons, mesh, state

SHARE = 0.05


def hedging_mesh(share: float = SHARE) -> Mesh:
    """It has learnt that first tokens take 100 ms."""
    made = replace(mesh(), hedging=Hedging(share))
    for _ in range(int(FEWEST)):
        made.hedging.first_tokens.learn("small", 10, 0.1, 0.0)
    return made


def asked(of: Mesh, **changes: Any) -> Answer:
    check = Check(of, LIMITS, grace_s=5.0, clock=lambda: 1.0)
    answer = check(check_request(**changes))
    assert isinstance(answer, Answer)
    return answer


def sent_entry(request_id: str = "r1") -> Any:
    """As Envoy logs a second arm."""
    logged = entry()
    logged.common_properties.access_log_type = AccessLogType.UpstreamPoolReady
    logged.common_properties.upstream_remote_address.socket_address.port_value = 9102
    logged.request.request_headers["x-evenflow-request-id"] = request_id
    return logged


def end_entry(attempts: int, *, sent_ms: int = 10, **trailers: Any) -> Any:
    logged = entry(grpc_status="0", x_evenflow_engine="simulated", **USAGE, **trailers)
    common = logged.common_properties
    common.upstream_request_attempt_count = attempts
    common.time_to_last_rx_byte.FromMilliseconds(1)
    common.time_to_first_upstream_tx_byte.FromMilliseconds(sent_ms)
    common.time_to_first_upstream_rx_byte.FromMilliseconds(sent_ms + 50)
    logged.request.request_headers["x-evenflow-request-id"] = "r1"
    return logged


WON = end_entry(2, sent_ms=300, x_evenflow_attempt="2")


def told(of: Mesh, *entries: Any) -> None:
    """The access log says so, in this order."""

    async def messages() -> Any:
        message = StreamAccessLogsMessage()
        message.http_logs.log_entry.extend(entries)
        yield message

    class Context:
        async def send_initial_metadata(self, _: Any) -> None:
            await asyncio.sleep(0)

    servicer = AccessLogServicer(of.requests, lessons(of), None)
    virtual_time.run(servicer.StreamAccessLogs(messages(), Context()))  # type: ignore[arg-type] # only that is used


def test_envoy_is_told_when_to_send_a_second_arm() -> None:
    headers = dict(asked(hedging_mesh()).headers)

    assert headers["x-evenflow-endpoints"] == f"{A},{B},{A}"
    assert 150 <= int(headers["x-envoy-upstream-rq-per-try-timeout-ms"]) <= 160
    assert headers["x-envoy-hedge-on-per-try-timeout"] == "true"
    assert headers["x-envoy-max-retries"] == "1"


@pytest.mark.parametrize("body", [generate(workload_class=2), None], ids=["batch", "off"])
def test_who_is_not_hedged_has_the_retries_of_before(body: bytes | None) -> None:
    headers = dict(asked(hedging_mesh(SHARE if body else 0.0), body=body).headers)

    assert not [each for each in headers if "try" in each or "hedge" in each or "max" in each[:11]]


def test_a_full_runtime_gets_no_second_arm() -> None:
    of = hedging_mesh()
    of.endpoints.saw(B, state(running=4, max_running=4))

    assert "x-envoy-hedge-on-per-try-timeout" not in dict(asked(of).headers)


@pytest.mark.parametrize(
    ("said", "is_free"),
    [
        (state(), True),
        (state(waiting=1), False),  # nobody knows how many places it has
        (state(running=3, max_running=4), True),
        (state(running=2, waiting=1, max_running=4), True),  # it begins with the next step
        (state(running=3, waiting=1, max_running=4), False),
        (state(running=4, max_running=4), False),
    ],
)
def test_free_is_what_has_a_place_for_one_more(said: RuntimeState, is_free: bool) -> None:
    known = Endpoints((A,))
    known.saw(A, said)

    assert known.is_free(A) is is_free


def test_a_second_arm_weighs_where_it_runs_until_the_end() -> None:
    of = hedging_mesh()
    asked(of)
    first = of.requests.load(A)

    told(of, sent_entry())
    assert of.requests.load(B) == first
    told(of, WON)

    assert of.requests.load(A) == of.requests.load(B) == Load(0, 0)


@pytest.mark.parametrize(
    "entries",
    [(sent_entry(), WON), (WON, sent_entry()), (WON,), (sent_entry(), sent_entry(), WON, WON)],
    ids=["in order", "end first", "arm lost", "repeated"],
)
def test_a_hedge_is_paid_for_once(entries: tuple[Any, ...]) -> None:
    of = hedging_mesh()
    asked(of)

    told(of, *entries)

    assert of.hedging.budget.tokens == pytest.approx(BURST - 1)
    assert of.hedging.budget.promised(1.0) == 0


def test_a_hedge_that_was_not_sent_is_not_paid_for() -> None:
    of = hedging_mesh()
    asked(of)
    assert of.hedging.budget.promised(1.0) == 1

    told(of, end_entry(1))

    assert of.hedging.budget.tokens == BURST
    assert of.hedging.budget.promised(1.0) == 0


def test_an_operator_sees_the_hedge_and_who_won() -> None:
    of = hedging_mesh()
    asked(of)
    told(of, sent_entry(), WON)

    why = explained("r1", of.requests.find("r1"))

    assert why.hedge_delay.ToMilliseconds() >= 150
    assert (why.hedge_sent, why.winning_attempt, why.not_hedged) == (True, 2, "")


def test_an_operator_sees_why_there_was_none() -> None:
    of = mesh()
    asked(of)

    assert explained("r1", of.requests.find("r1")).not_hedged == "off"


def test_an_arm_is_told_from_an_end() -> None:
    assert arm(sent_entry("r7")) == Arm("r7", B)
    assert arm(WON) is None


@pytest.mark.parametrize(("said", "attempt"), [("2", 2), ("", None), ("x", None), ("22", None)])
def test_the_attempt_that_a_runtime_names_is_a_digit(said: str, attempt: int | None) -> None:
    assert ended(end_entry(2, x_evenflow_attempt=said)).echoed_attempt == attempt


def test_first_tokens_are_learnt_from_ends() -> None:
    of = replace(mesh(), hedging=Hedging(SHARE))
    for number in range(int(FEWEST)):
        asked(of, x_request_id=f"r{number}")
        end = end_entry(1)
        end.request.request_headers["x-evenflow-request-id"] = f"r{number}"
        told(of, end)

    median_s = of.hedging.first_tokens.quantile_s("small", 1, share=0.5, now_s=0.0)
    assert median_s == pytest.approx(0.05, rel=0.06)
