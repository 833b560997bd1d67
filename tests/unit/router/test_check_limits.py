"""A tenant's limits as its callers meet them: refused at once, at their turn, and by hits."""

import asyncio
from typing import Any

import pytest
from google.rpc.error_details_pb2 import BadRequest, RetryInfo

from services.router.core.endings import Usage
from services.router.core.limits import Limiting
from services.router.core.tenants import Limits, Tenants
from services.router.inbound.answers import Answer
from services.router.inbound.mesh import Mesh
from tests.unit.router.test_check import answer, headers, reason, rich
from tests.unit.router.test_check_cache import Router as Keeping
from tests.unit.router.test_check_cache import asking
from tests.unit.router.test_check_held import OF_EACH, Router, run
from tests.unit.router.values import (
    A,
    B,
    check_request,
    ended,
    generate,
    lost,
    mesh,
    on_front_end,
    state,
    tenant,
)

COUNT = "/evenflow.inference.v1.InferenceService/CountTokens"


def limited(**limits: Any) -> Mesh:
    of = mesh(tenant(limits=Limits(**limits)))
    for address in (A, B):
        of.endpoints.saw(address, state(kv_blocks_total=100, kv_block_tokens=16))
    return of


def asked(of: Mesh, number: int = 1, **fields: Any) -> Answer:
    body = generate(sampling={"max_output_tokens": 100}, **fields)
    return answer(check_request(body, x_request_id=f"r{number}"), of)


def detail(refused: Answer, kind: Any) -> Any:
    found = kind()
    assert any(each.Unpack(found) for each in rich(refused).details)
    return found


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"requests_per_minute": 1}, "REQUEST_RATE_LIMIT"),
        ({"tokens_per_minute": 150}, "TOKEN_RATE_LIMIT"),
        ({"concurrent_requests": 1}, "CONCURRENCY_LIMIT"),
        ({"kv_share": 0.05}, "KV_LIMIT"),
    ],
)
def test_the_second_is_refused_with_its_reason_and_when_to_come_back(
    limits: dict[str, Any], expected: str
) -> None:
    of = limited(**limits)
    assert asked(of, 1).status == 200

    refused = asked(of, 2)

    assert (refused.status, reason(refused)) == (429, expected)
    assert detail(refused, RetryInfo).retry_delay.ToMilliseconds() >= 1000
    assert int(headers(refused)["retry-after"]) >= 1
    decision = of.requests.find("r2").decision
    assert decision is not None
    assert decision.refusal is not None
    assert decision.refusal.value == expected
    assert of.requests.running() == 1


def test_the_openai_listener_says_so_too() -> None:
    of = limited(requests_per_minute=1)
    asked(of, 1)

    refused = answer(on_front_end(check_request(x_request_id="r2")), of)

    assert (refused.status, headers(refused)["retry-after"]) == (429, "61")


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"tokens_per_minute": 90}, "TOKEN_RATE_LIMIT"),
        ({"kv_share": 0.03}, "KV_LIMIT"),
    ],
)
def test_what_no_wait_would_change_names_the_field(limits: dict[str, Any], expected: str) -> None:
    refused = asked(limited(**limits))

    assert reason(refused) == expected
    (violation,) = detail(refused, BadRequest).field_violations
    assert violation.field == "sampling.max_output_tokens"
    assert headers(refused)["x-should-retry"] == "false"


def test_counting_tokens_is_a_request_and_nothing_else() -> None:
    of = limited(requests_per_minute=2, tokens_per_minute=100, concurrent_requests=1)
    for number in (1, 2):
        assert answer(check_request(path=COUNT, x_request_id=f"r{number}"), of).status == 200

    refused = answer(check_request(path=COUNT, x_request_id="r3"), of)

    assert reason(refused) == "REQUEST_RATE_LIMIT"


def test_what_a_runtime_is_not_asked_for_counts_nothing() -> None:
    of = limited(requests_per_minute=1)
    for number in range(3):
        models = "/evenflow.inference.v1.InferenceService/ListModels"
        assert answer(check_request(b"", path=models, x_request_id=f"r{number}"), of).status == 200

    assert asked(of, 4).status == 200


def test_a_refusal_for_another_reason_counts_nothing() -> None:
    of = limited(requests_per_minute=1)
    assert reason(asked(of, 1, model="unknown")) == "MODEL_NOT_FOUND"
    assert reason(asked(of, 2, model="small", workload_class=3)) != "REQUEST_RATE_LIMIT"

    assert asked(of, 3).status == 200


def test_an_answer_given_again_is_a_request_without_tokens() -> None:
    limits = Limits(requests_per_minute=3, tokens_per_minute=600, concurrent_requests=1)
    router = Keeping(tenant(limits=limits))
    router.answers(router.key(asking()))

    assert router.is_hit(asking())
    assert reason(router.check(asking(text="other"))) == "TOKEN_RATE_LIMIT"
    assert router.is_hit(asking())
    assert reason(router.check(asking())) == "REQUEST_RATE_LIMIT"


def test_one_tenants_limits_are_no_others() -> None:
    other = tenant(
        id="globex", spiffe_ids=("spiffe://evenflow.local/tenant/globex/*",), api_keys=()
    )
    of = mesh(tenant(limits=Limits(requests_per_minute=1)), other)
    asked(of, 1)
    assert reason(asked(of, 2)) == "REQUEST_RATE_LIMIT"

    peer = "spiffe://evenflow.local/tenant/globex/web"
    assert answer(check_request(peer=peer, x_request_id="r3"), of).status == 200


def test_a_change_of_the_policy_holds_for_the_next_request() -> None:
    of = limited(requests_per_minute=1)
    asked(of, 1)
    assert reason(asked(of, 2)) == "REQUEST_RATE_LIMIT"

    of.policy.replaced(Tenants("v2", [tenant(limits=Limits(requests_per_minute=2))]), 0.0)
    assert asked(of, 3).status == 200
    of.policy.replaced(Tenants("v3", [tenant(limits=Limits(concurrent_requests=1))]), 0.0)

    assert reason(asked(of, 4)) == "CONCURRENCY_LIMIT"


def waiting_mesh(**limits: Any) -> Mesh:
    return mesh(tenant(limits=Limits(**limits)))


TOKENS_A_MINUTE = 10_000
FULL = 2 * OF_EACH  # requests that run from the start


def test_a_request_over_a_limit_does_not_wait() -> None:
    async def scenario(router: Router) -> None:
        refused = router.ask(check_request())

        assert isinstance(refused, Answer)
        assert reason(refused) == "CONCURRENCY_LIMIT"
        assert len(router.mesh.line.flow) == 0

    run(scenario, waiting_mesh(concurrent_requests=FULL))


def test_what_waits_counts_only_at_its_turn_and_is_judged_anew_then() -> None:
    async def scenario(router: Router) -> None:
        first, second = router.held("r1"), router.held("r2")
        assert router.mesh.limiting.accounts["acme"].requests.total == FULL

        router.end("full0")
        router.end("full1")
        await asyncio.sleep(0)

        assert first.answer.status == 200
        assert reason(second.answer) == "REQUEST_RATE_LIMIT"
        assert "r2" not in router.mesh.limiting

    run(scenario, waiting_mesh(requests_per_minute=FULL + 1))


def test_a_limit_that_is_set_while_it_waits_holds_at_its_turn() -> None:
    async def scenario(router: Router) -> None:
        caller = router.held("r1")
        lower = tenant(limits=Limits(concurrent_requests=1))
        router.mesh.policy.replaced(Tenants("v2", [lower]), asyncio.get_running_loop().time())

        router.end("full0")
        await asyncio.sleep(0)

        assert reason(caller.answer) == "CONCURRENCY_LIMIT"

    run(scenario, waiting_mesh(requests_per_minute=100))


def test_who_leaves_while_it_waits_has_counted_nothing() -> None:
    async def scenario(router: Router) -> None:
        router.held("r1").held.left()

        assert router.mesh.limiting.accounts["acme"].requests.total == FULL

    run(scenario, waiting_mesh(requests_per_minute=100))


@pytest.mark.parametrize("how", ["ended", "expired", "restarted"])
def test_whatever_frees_a_slot_frees_its_place_among_its_tenants(how: str) -> None:
    async def scenario(router: Router) -> None:
        requests = router.mesh.requests
        if how == "ended":
            requests.end(ended("full0", usage=Usage(1, 0, 1)))
        elif how == "expired":
            requests.expire(asyncio.get_running_loop().time() + 1000.0)
        else:
            assert requests.restarted(A)

        assert running(router.mesh.limiting) == requests.running() < FULL

    run(scenario, waiting_mesh(concurrent_requests=FULL))


def test_what_a_runtime_tells_later_corrects_the_tokens_and_may_leave_a_debt() -> None:
    async def scenario(router: Router) -> None:
        requests, minute = router.mesh.requests, router.mesh.limiting.accounts["acme"].tokens
        charged = minute.total
        requests.end(ended("full0", usage=None))
        assert minute.total == charged

        requests.attempt(lost("full0", usage=Usage(10, 0, 7)))
        requests.attempt(lost("full0", usage=Usage(10, 0, 7)))
        assert minute.total == charged * (FULL - 1) // FULL + 17

        requests.attempt(lost("full0", number=2, usage=Usage(10**6, 0, 0)))
        assert minute.total == TOKENS_A_MINUTE
        assert minute.debt > 0

    run(scenario, waiting_mesh(tokens_per_minute=TOKENS_A_MINUTE))


def running(limiting: Limiting) -> int:
    return len(limiting.accounts["acme"].running)


def test_nothing_is_kept_of_a_tenant_without_limits() -> None:
    of = mesh()

    answer(check_request(), of)

    assert not of.limiting.accounts
