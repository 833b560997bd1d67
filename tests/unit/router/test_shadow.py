"""A candidate policy is judged by beside the live one, and touches nothing."""

from dataclasses import replace
from typing import Any

from structlog.testing import capture_logs

from services.router.core.shadow import MOST_APART, MOST_EXAMPLES, Judgement, Kind, Shadow
from services.router.core.tenants import Caller, Tenants
from services.router.core.verdicts import Reason
from services.router.inbound.answers import Answer
from services.router.inbound.check import Check
from services.router.inbound.mesh import Mesh
from services.router.outbound.shadow import report_of
from tests.unit.router.values import (
    LIMITS,
    check_request,
    demand,
    generate,
    headers_of,
    mesh,
    on_front_end,
    tenant,
)

SMALLER = tenant(max_output_tokens=50)


def shadow_of(*tenants: Any, version: str = "v2") -> Shadow:
    shadow = Shadow(stale_after_s=300.0)
    shadow.replaced(Tenants(version, tenants), 0.0)
    return shadow


def asked(router: Mesh, shadow: Shadow, *questions: Any, now_s: float = 0.0) -> list[Any]:
    check = Check(replace(router, shadow=shadow), LIMITS, grace_s=1.0, clock=lambda: now_s)
    return [check(each) for each in questions or (check_request(generate()),)]


def said(shadow: Shadow) -> dict[tuple[str, str, str], int]:
    told = report_of(shadow, "router-1").differences
    return {(each.live, each.shadow, each.tenant): each.requests for each in told}


def test_what_it_would_refuse_is_counted_and_goes_all_the_same() -> None:
    shadow = shadow_of(tenant(models=frozenset({"large"})))

    (answer,) = asked(mesh(), shadow)

    assert isinstance(answer, Answer)
    assert answer.status == 200
    assert said(shadow) == {("", "MODEL_NOT_ALLOWED", "acme"): 1}


def test_what_it_would_admit_is_counted_and_refused_all_the_same() -> None:
    shadow = shadow_of(tenant())

    (answer,) = asked(mesh(tenant(models=frozenset({"large"}))), shadow)

    assert "MODEL_NOT_ALLOWED" in str(headers_of(answer))
    assert said(shadow) == {("MODEL_NOT_ALLOWED", "", "acme"): 1}


def test_whom_it_does_not_know_or_alone_knows_is_counted() -> None:
    nobody, everybody = shadow_of(), shadow_of(tenant())

    asked(mesh(), nobody)
    asked(mesh(tenant(spiffe_ids=(), id="other")), everybody)

    assert said(nobody) == {("", "UNKNOWN_IDENTITY", "acme"): 1}
    assert said(everybody) == {("UNKNOWN_IDENTITY", "", "acme"): 1}


def test_it_knows_callers_by_api_key_too() -> None:
    shadow = shadow_of(tenant(api_keys=()))

    asked(mesh(), shadow, on_front_end(check_request(generate())))

    assert said(shadow) == {("", "UNKNOWN_IDENTITY", "acme"): 1}


def test_the_same_policy_differs_in_nothing() -> None:
    shadow = shadow_of(tenant())
    late = check_request(generate(), grpc_timeout="0m")

    asked(mesh(), shadow, check_request(generate()), late, check_request(b"\xff"))

    assert (shadow.judged, said(shadow)) == (3, {})


def test_a_body_that_can_not_be_read_is_no_difference() -> None:
    shadow = shadow_of(SMALLER)

    asked(mesh(), shadow, check_request(b"\xff"))

    assert said(shadow) == {}


def test_without_one_nothing_is_judged() -> None:
    shadow = Shadow(stale_after_s=300.0)

    asked(mesh(), shadow)

    assert shadow.judged == 0


def test_one_that_policy_was_silent_about_for_too_long_is_not_asked() -> None:
    shadow = shadow_of(SMALLER)

    asked(mesh(now_s=301.0), shadow, now_s=301.0)
    assert shadow.judged == 0

    shadow.confirmed(301.0)
    asked(mesh(now_s=302.0), shadow, now_s=302.0)
    assert shadow.judged == 1


class Broken(Tenants):
    def by_spiffe_id(self, spiffe_id: str) -> Caller | None:
        raise ZeroDivisionError


def test_one_that_breaks_is_counted_said_once_and_harms_nobody() -> None:
    shadow = Shadow(stale_after_s=300.0)
    shadow.replaced(Broken("v2", [tenant()]), 0.0)

    with capture_logs() as logs:
        answers = asked(mesh(), shadow, *(check_request(generate()) for _ in range(3)))

    assert {each.status for each in answers} == {200}
    assert shadow.failed == 3
    assert [each["event"] for each in logs] == ["shadow.bug"]


def test_another_one_begins_at_nothing_and_the_same_one_does_not() -> None:
    shadow = shadow_of(tenant(models=frozenset({"large"})))
    asked(mesh(), shadow)

    shadow.replaced(Tenants("v2", [SMALLER]), 0.0)
    assert shadow.judged == 1
    shadow.replaced(Tenants("v3", [SMALLER]), 0.0)
    assert (shadow.judged, said(shadow)) == (0, {})


def test_a_cleared_one_is_forgotten() -> None:
    shadow = shadow_of(tenant(models=frozenset({"large"})))
    asked(mesh(), shadow)

    shadow.cleared()
    asked(mesh(), shadow)

    assert (shadow.version, shadow.judged, said(shadow)) == ("", 0, {})


def test_so_many_tenants_are_told_apart_and_all_are_counted() -> None:
    shadow = shadow_of()
    for number in range(2 * MOST_APART):
        judgement = Judgement(f"r-{number}", None, f"t-{number}", demand())
        shadow.compare(judgement, None)

    counts = shadow.differences
    assert len(counts) == MOST_APART + 1
    assert counts.total() == 2 * MOST_APART
    assert counts[Kind(None, Reason.UNKNOWN_IDENTITY, "")] == MOST_APART


def test_some_examples_are_kept() -> None:
    shadow = shadow_of()
    for number in range(20):
        shadow.compare(Judgement(f"r-{number}", None, "acme", demand()), None)

    (told,) = report_of(shadow, "router-1").differences
    assert list(told.examples) == [f"r-{number}" for number in range(MOST_EXAMPLES)]
