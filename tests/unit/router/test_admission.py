from typing import Any

import pytest

from services.router.core.demands import Demand, InvalidDemand, Output, Prompt, WorkloadClass
from services.router.core.endpoints import Endpoints, Readiness
from services.router.core.tenants import Tenant
from services.router.core.verdicts import Admitted, Reason, Refused
from tests.unit.router.values import (
    A,
    B,
    busy,
    decided,
    demand,
    endpoints,
    model,
    pool,
    state,
    tenant,
)


def admitted(asked: Demand, of: Tenant | None = None, **changes: Any) -> Admitted:
    verdict = verdict_on(asked, of, **changes)
    assert isinstance(verdict, Admitted)
    return verdict


def refused(asked: Demand, of: Tenant | None = None, **changes: Any) -> Refused:
    verdict = verdict_on(asked, of, **changes)
    assert isinstance(verdict, Refused)
    return verdict


def verdict_on(
    asked: Demand,
    of: Tenant | None = None,
    *,
    known: Endpoints | None = None,
    tokens: dict[str, int] | None = None,
    remaining_s: float | None = None,
) -> Admitted | Refused:
    there = known or endpoints(A, B)
    seen = pool(there, busy(tokens or {}))
    return decided(asked, of or tenant(), seen, remaining_s)


def test_goes_to_the_endpoint_with_the_fewest_tokens_first() -> None:
    assert admitted(demand(), tokens={A: 50}).endpoints == [B, A]


def test_takes_the_tenants_default_class_and_its_time() -> None:
    verdict = admitted(demand(), tenant(default_workload_class=WorkloadClass.BATCH))

    assert (verdict.workload_class, verdict.timeout_s) == (WorkloadClass.BATCH, 600.0)


def test_keeps_the_callers_deadline_up_to_the_longest() -> None:
    assert admitted(demand(), remaining_s=7.5).timeout_s == 7.5
    assert admitted(demand(), remaining_s=1e9).timeout_s == 3600.0


def test_counts_the_prompt_and_what_may_be_written() -> None:
    asked = demand(prompt=Prompt(10, exact=False), output=Output(100, "max_tokens"))

    assert admitted(asked).tokens == 110


@pytest.mark.parametrize(("limit", "reserved"), [(0, 512), (300, 300), (1024, 512)])
def test_an_unsaid_output_counts_as_what_runtimes_write_at_most(limit: int, reserved: int) -> None:
    asked = demand(output=Output(None, "max_tokens"))

    assert admitted(asked, tenant(max_output_tokens=limit)).output_tokens == reserved


@pytest.mark.parametrize("remaining_s", [-1.0, 0.0, 0.0009])
def test_a_passed_deadline_is_refused_before_all_else(remaining_s: float) -> None:
    assert refused(demand(model="other"), remaining_s=remaining_s).reason is Reason.DEADLINE


def test_a_deadline_that_can_be_kept_to_the_millisecond_is_none() -> None:
    assert admitted(demand(), remaining_s=0.001).timeout_s == 0.001


def test_a_model_that_nobody_serves_is_not_found() -> None:
    verdict = refused(demand(model="other"), tenant(models=frozenset({"*"})))

    assert (verdict.reason, verdict.field) == (Reason.MODEL_NOT_FOUND, "model")


def test_a_model_is_looked_for_until_every_runtime_has_been_tried() -> None:
    known = Endpoints([A, B])
    known.saw(A, state(model(model="other")))

    assert refused(demand(), known=known).reason is Reason.NO_ENDPOINT

    known.lost(B)
    assert refused(demand(), known=known).reason is Reason.MODEL_NOT_FOUND


def test_with_every_runtime_out_of_reach_a_model_may_yet_be_served() -> None:
    known = Endpoints([A])
    known.lost(A)

    verdict = refused(demand(), known=known)
    assert verdict.reason is Reason.NO_ENDPOINT
    assert verdict.retry_after_s == 1.0


def test_a_model_of_others_is_refused() -> None:
    verdict = refused(demand(), tenant(models=frozenset({"large"})))

    assert (verdict.reason, verdict.field) == (Reason.MODEL_NOT_ALLOWED, "model")


def test_a_class_of_others_is_refused() -> None:
    verdict = refused(demand(workload_class=WorkloadClass.HIGH_RISK))

    assert verdict.reason is Reason.WORKLOAD_CLASS_NOT_ALLOWED


def test_more_output_than_the_tenant_may_ask_for_is_refused_by_the_callers_name_for_it() -> None:
    assert isinstance(verdict_on(demand(output=Output(1024, "max_tokens"))), Admitted)

    verdict = refused(demand(output=Output(1025, "max_tokens")))
    assert (verdict.reason, verdict.field) == (Reason.OUTPUT_LIMIT, "max_tokens")


def test_token_ids_above_the_tenants_context_are_refused_by_one() -> None:
    fits = demand(prompt=Prompt(3996, exact=True))
    over = demand(prompt=Prompt(3997, exact=True))

    assert isinstance(verdict_on(fits), Admitted)
    assert refused(over).reason is Reason.CONTEXT_LIMIT


def test_an_estimate_refuses_nobody() -> None:
    assert isinstance(verdict_on(demand(prompt=Prompt(10**6, exact=False))), Admitted)


def test_counting_tokens_reserves_no_output() -> None:
    assert admitted(demand(output=None)).tokens == 10


@pytest.mark.parametrize(
    ("readiness", "draining", "reason", "left_out"),
    [
        (Readiness.LOADING, False, Reason.NO_ENDPOINT, "loading"),
        (Readiness.FAILED, False, Reason.NO_ENDPOINT, "failed"),
        (Readiness.READY, True, Reason.DRAINING, "draining"),
    ],
)
def test_a_refusal_says_why_each_endpoint_was_left_out(
    readiness: Readiness, *, draining: bool, reason: Reason, left_out: str
) -> None:
    known = Endpoints([A])
    known.saw(A, state(model(readiness=readiness), draining=draining))

    verdict = refused(demand(), known=known)
    assert verdict.reason is reason
    assert [each.left_out for each in verdict.candidates] == [left_out]


def test_a_demand_names_a_model_and_at_least_one_token() -> None:
    with pytest.raises(InvalidDemand, match="model: must not be empty"):
        demand(model="")
    with pytest.raises(InvalidDemand, match="max_tokens: must be at least 1, got 0"):
        Output(0, "max_tokens")
