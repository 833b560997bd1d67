"""Pools in the policy file: of tenants and of classes, and what is told to routers and people."""

import pytest
from structlog.testing import capture_logs

from services.policy.core.nodes import InvalidPolicy
from services.policy.core.tenants import ClassRules, WorkloadClass
from services.policy.inbound.tenants import encode
from services.policy.outbound.reloading import say_loaded
from tests.unit.policy.policies import ACME, GLOBEX, policy_of

RISKY = ACME.replace("[interactive, batch]", "[interactive, high_risk]")
GUARDED = "classes:\n  high_risk:\n    pool: careful\n"
OWN = RISKY + "    pool: vault\n"


def test_a_class_has_the_pool_that_it_is_given_and_routers_are_told() -> None:
    policy = policy_of(GUARDED + RISKY)

    assert policy.classes == (ClassRules(workload_class=WorkloadClass.HIGH_RISK, pool="careful"),)
    assert [each.pool for each in encode(policy).classes] == ["careful"]


def test_high_risk_in_the_shared_pool_is_warned_of_by_place() -> None:
    (warning,) = policy_of(RISKY + GLOBEX).warnings

    assert (warning.line, warning.column, warning.field) == (2, 5, "tenants[0]")
    assert "acme may use high_risk" in warning.message


@pytest.mark.parametrize("text", [ACME + GLOBEX, GUARDED + RISKY, OWN])
def test_who_has_a_boundary_or_needs_none_is_not_warned_of(text: str) -> None:
    assert not policy_of(text).warnings


def test_a_tenants_own_pool_is_no_classs() -> None:
    with pytest.raises(InvalidPolicy) as caught:
        policy_of(GUARDED.replace("careful", "vault") + OWN)

    (problem,) = caught.value.problems
    assert problem.field == "tenants[0].pool"
    assert "is the pool of the class high_risk already" in problem.message


@pytest.mark.parametrize("name", ["''", "a b", "7", "[a]", "(shared)"])
def test_a_class_s_pool_has_a_name(name: str) -> None:
    with pytest.raises(InvalidPolicy) as caught:
        policy_of(GUARDED.replace("careful", name) + RISKY)

    assert [each.field for each in caught.value.problems] == ["classes.high_risk.pool"]


def test_a_doubtful_policy_is_said_to_be_once() -> None:
    with capture_logs() as logged:
        say_loaded(policy_of(RISKY + GLOBEX))
        say_loaded(policy_of(ACME))

    events = [each["event"] for each in logged]
    assert events == ["policy.loaded", "policy.doubtful", "policy.loaded"]
    assert logged[1]["warnings"] == 1
    assert "high_risk" in logged[1]["first"]
