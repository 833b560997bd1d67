"""What a request has before it, as its ladder changes it."""

from dataclasses import replace
from typing import Any

from services.router.core.circuits import OPENS_AFTER, Outcome
from services.router.core.demands import Demand, Output
from services.router.core.flow import FlowControl
from services.router.core.rungs import Triggers
from services.router.core.saturation import Saturation
from services.router.inbound.asked import asked
from services.router.inbound.line import Line
from services.router.inbound.mesh import Mesh
from services.router.inbound.sight import Asking, Known, Sight
from tests.unit.router.values import LIMITS, WEB, A, B, check_request, demand, mesh, picker, state

NOW_S = 10.0
ASKED = demand(output=Output(400, "max_tokens"))


def said_by_both(**said: Any) -> Mesh:
    of = replace(mesh(), line=Line(FlowControl(Saturation())))
    for address in (A, B):
        of.endpoints.saw(address, state(**said))
        of.line.flow.saturation.saw(of.endpoints.get(address), NOW_S)
    return of


def sight_of(of: Mesh) -> Sight:
    tenants = of.policy.current(NOW_S)
    assert tenants is not None
    caller = tenants.by_spiffe_id(WEB)
    assert caller is not None
    question = asked(check_request(), lambda *_: False)
    asking = Asking(question, Known(caller, tenants), NOW_S, remaining_s=None)
    return Sight(of, picker(of.endpoints, of.requests), LIMITS, asking)


def smaller(asked_for: Demand) -> Demand:
    return replace(asked_for, output=Output(100, "max_tokens"))


def test_where_there_is_room_nothing_holds_and_it_passes() -> None:
    sight = sight_of(said_by_both(max_running=4))

    assert sight.outlook(ASKED).triggers == Triggers()
    assert sight.passes(ASKED)


def test_what_its_ladder_saw_saturated_does_not_pass() -> None:
    sight = sight_of(said_by_both(max_running=4, running=4, waiting=1))

    assert sight.outlook(ASKED).triggers.saturated
    assert not sight.passes(ASKED)


def test_without_a_ladder_it_is_looked_at_all_the_same() -> None:
    assert sight_of(said_by_both(max_running=4)).passes(ASKED)
    assert not sight_of(said_by_both(max_running=4, running=4, waiting=1)).passes(ASKED)


def test_it_waits_as_its_ladder_has_left_it() -> None:
    sight = sight_of(said_by_both(max_running=4))

    assert sight.waiting(ASKED).output_tokens == 400
    assert sight.waiting(smaller(ASKED)).output_tokens == 100


def test_a_model_whose_circuits_are_all_open_is_unwell() -> None:
    of = said_by_both(max_running=4)
    for address in (A, B):
        assert not sight_of(of).outlook(ASKED).triggers.model_unhealthy
        for _ in range(OPENS_AFTER):
            of.circuits.learn(Outcome(address, succeeded=False), began_s=NOW_S, now_s=NOW_S)

    assert sight_of(of).outlook(ASKED).triggers.model_unhealthy
