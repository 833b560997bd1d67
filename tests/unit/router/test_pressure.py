"""When the triggers of the ladder hold."""

from typing import Any

from services.router.core.demands import Demand, Output, WorkloadClass
from services.router.core.endpoints import Endpoints
from services.router.core.flow import FlowControl
from services.router.core.paces import Paces
from services.router.core.pressure import Outlook, degrading, outlook
from services.router.core.rungs import Refuse, Trigger, Triggers
from services.router.core.saturation import Saturation
from services.router.core.tenants import ClassRules, Tenants
from tests.unit.router.test_queue import waiting
from tests.unit.router.values import A, B, demand, state, tenant

FREE = {"max_running": 4, "running": 3}
FULL = {"max_running": 4, "running": 4, "waiting": 1}
NOW_S = 10.0


def control(**states: dict[str, Any]) -> FlowControl:
    """Of the endpoints `a` and `b`, as they say they are."""
    saturation = Saturation()
    for name, said in states.items():
        address = {"a": A, "b": B}[name]
        known = Endpoints([address])
        known.saw(address, state(**said))
        saturation.saw(known.get(address), NOW_S)
    return FlowControl(saturation)


def held(
    ahead: Outlook,
    *,
    paces: Paces | None = None,
    within_s: float = 60.0,
    budget_low: bool = False,
    **of: Any,
) -> Triggers:
    """What holds, as a ladder learns it: which of its rungs, each for a trigger, is not passed."""

    def refused(when: Trigger) -> bool:
        rules = {WorkloadClass.INTERACTIVE: ClassRules(ladder=(Refuse(when),))}
        tenants = Tenants("v1", [tenant()], rules)
        degrade = degrading(
            tenants, tenant(), lambda _: ahead, paces or Paces(), budget_low=budget_low
        )
        assert degrade is not None
        return degrade(demand(**of), WorkloadClass.INTERACTIVE, within_s).refused

    return Triggers(
        saturated=refused(Trigger.SATURATED),
        deadline_at_risk=refused(Trigger.DEADLINE_AT_RISK),
        model_unhealthy=refused(Trigger.MODEL_UNHEALTHY),
        budget_low=refused(Trigger.BUDGET_LOW),
    )


def test_a_model_is_saturated_when_a_request_would_have_to_wait() -> None:
    assert outlook(waiting(), [A, B], control(a=FULL, b=FREE), NOW_S) == Outlook(Triggers())
    ahead = outlook(waiting(), [A, B], control(a=FULL, b=FULL), NOW_S)
    assert ahead.triggers == Triggers(saturated=True)


def test_who_waits_already_saturates_it_for_others() -> None:
    flow = control(a=FULL)
    flow.offer(waiting(request_id="first"), NOW_S)

    assert outlook(waiting(), [A], flow, NOW_S).triggers.saturated


def test_a_model_without_endpoints_is_unhealthy() -> None:
    assert outlook(waiting(), [], control(), NOW_S) == Outlook(Triggers(model_unhealthy=True))


def test_what_lies_ahead_is_what_the_ladder_is_told() -> None:
    for triggers in (Triggers(), Triggers(saturated=True), Triggers(model_unhealthy=True)):
        assert held(Outlook(triggers)) == triggers


def test_a_deadline_is_at_risk_when_answers_have_taken_longer_lately() -> None:
    paces = Paces()
    paces.learn("small", first_token_s=0.5, duration_s=0.5 + 49 * 0.1, tokens=50)
    free = Outlook(Triggers())

    assert held(free, paces=paces, within_s=5.5) == Triggers()
    assert held(free, paces=paces, within_s=5.3) == Triggers(deadline_at_risk=True)
    shorter = Output(10, "max_tokens")
    assert held(free, paces=paces, within_s=2.0, output=shorter) == Triggers()


def test_a_wait_before_it_puts_a_deadline_at_risk() -> None:
    paces = Paces()
    paces.learn("small", first_token_s=0.5, duration_s=0.5 + 49 * 0.1, tokens=50)
    full = Triggers(saturated=True)

    assert held(Outlook(full, wait_s=1.0), paces=paces, within_s=6.5) == full
    assert held(Outlook(full, wait_s=1.2), paces=paces, within_s=6.5).deadline_at_risk


def test_a_budget_that_is_low_holds_beside_the_others() -> None:
    paces = Paces()
    paces.learn("small", first_token_s=1.0, duration_s=61.0, tokens=100, cut=False)
    late: dict[str, Any] = {"paces": paces, "within_s": 10.0, "output": Output(100, "max_tokens")}

    assert held(Outlook(Triggers()), budget_low=True) == Triggers(budget_low=True)
    assert held(Outlook(Triggers(saturated=True)), budget_low=True, **late) == Triggers(
        saturated=True, deadline_at_risk=True, budget_low=True
    )
    unhealthy = Outlook(Triggers(model_unhealthy=True))
    assert held(unhealthy, budget_low=True, **late) == Triggers(
        model_unhealthy=True, budget_low=True
    )


def test_without_ladders_nobody_looks() -> None:
    def never(_: Demand) -> Outlook:
        raise AssertionError

    none = {WorkloadClass.BATCH: ClassRules(resume=True)}

    assert degrading(Tenants("v1", [tenant()], none), tenant(), never, Paces()) is None
