"""When the triggers of the ladder hold."""

import pytest

from services.router.core.admission import Pool
from services.router.core.demands import Demand, Output, WorkloadClass
from services.router.core.endpoints import Endpoints
from services.router.core.inflight import Load
from services.router.core.paces import Paces
from services.router.core.pressure import degrading
from services.router.core.rungs import Refuse, Trigger, Triggers
from services.router.core.tenants import ClassRules, Tenants
from tests.unit.router.values import A, B, demand, model, state, tenant

FREE = {"max_running": 4, "running": 3, "kv_blocks_free": 50, "kv_blocks_total": 100}


def seen(
    *,
    a: dict[str, int],
    b: dict[str, int] | None = None,
    load: Load | None = None,
    shut: frozenset[str] = frozenset(),
    paces: Paces | None = None,
    within_s: float = 60.0,
) -> Triggers:
    known = Endpoints([A] if b is None else [A, B])
    known.saw(A, state(**a))
    if b is not None:
        known.saw(B, state(**b))
    pool = Pool(known.all(), lambda _: load or Load(), shut.__contains__)
    return look(pool, paces or Paces(), demand(), within_s)


def look(pool: Pool, paces: Paces, asked: Demand, within_s: float) -> Triggers:
    """What holds, as a ladder learns it: which of its rungs, each for a trigger, is not passed."""

    def refused(when: Trigger) -> bool:
        rules = {WorkloadClass.INTERACTIVE: ClassRules(ladder=(Refuse(when),))}
        degrade = degrading(Tenants("v1", [tenant()], rules), tenant(), pool, paces)
        assert degrade is not None
        return degrade(asked, WorkloadClass.INTERACTIVE, within_s).refused

    held = {each: refused(each) for each in Trigger}
    return Triggers(
        saturated=held[Trigger.SATURATED],
        deadline_at_risk=held[Trigger.DEADLINE_AT_RISK],
        model_unhealthy=held[Trigger.MODEL_UNHEALTHY],
    )


@pytest.mark.parametrize(
    ("said", "full"),
    [
        ({}, False),
        ({"running": 4}, True),
        ({"waiting": 1}, True),
        ({"kv_blocks_free": 5}, False),
        ({"kv_blocks_free": 4}, True),
        ({"max_running": 0, "running": 100}, False),
        ({"max_running": 0, "kv_blocks_free": 0, "kv_blocks_total": 0}, False),
    ],
)
def test_an_endpoint_is_full_by_its_own_word(said: dict[str, int], full: bool) -> None:
    assert seen(a=FREE | said) == Triggers(saturated=full)


def test_what_was_sent_counts_before_the_endpoint_tells_of_it() -> None:
    assert seen(a=FREE | {"running": 0}, load=Load(900, 3)) == Triggers()
    assert seen(a=FREE | {"running": 0}, load=Load(900, 4)) == Triggers(saturated=True)


def test_a_model_is_saturated_when_every_endpoint_that_could_answer_is_full() -> None:
    full = FREE | {"waiting": 1}

    assert seen(a=full, b=FREE) == Triggers()
    assert seen(a=full, b=full) == Triggers(saturated=True)
    assert seen(a=full, b=FREE, shut=frozenset({B})) == Triggers(saturated=True)


def test_a_model_is_unhealthy_without_an_endpoint_or_with_all_circuits_open() -> None:
    known = Endpoints([A])
    known.saw(A, state(model(model="other")))
    pool = Pool(known.all(), lambda _: Load())

    assert look(pool, Paces(), demand(), 1.0) == Triggers(model_unhealthy=True)
    assert seen(a=FREE, b=FREE, shut=frozenset({A, B})) == Triggers(model_unhealthy=True)
    assert seen(a=FREE, b=FREE, shut=frozenset({A})) == Triggers()


def test_a_deadline_is_at_risk_when_answers_have_taken_longer_lately() -> None:
    paces = Paces()
    paces.learn("small", first_token_s=0.5, duration_s=0.5 + 49 * 0.1, tokens=50)

    assert seen(a=FREE, paces=paces, within_s=5.5) == Triggers()
    assert seen(a=FREE, paces=paces, within_s=5.3) == Triggers(deadline_at_risk=True)


def test_less_output_puts_a_deadline_at_less_risk() -> None:
    paces = Paces()
    paces.learn("small", first_token_s=0.5, duration_s=0.5 + 49 * 0.1, tokens=50)
    known = Endpoints([A])
    known.saw(A, state(**FREE))
    pool = Pool(known.all(), lambda _: Load())

    shorter = demand(output=Output(10, "max_tokens"))
    assert look(pool, paces, shorter, 2.0) == Triggers()


def test_without_ladders_nobody_looks() -> None:
    pool = Pool([], lambda _: Load())
    none = {WorkloadClass.BATCH: ClassRules(resume=True)}

    assert degrading(Tenants("v1", [tenant()], none), tenant(), pool, Paces()) is None
