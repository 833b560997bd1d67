import pytest

from services.router.core.endpoints import (
    STALLED_AFTER_S,
    Endpoints,
    Readiness,
    RuntimeState,
    Standing,
    UnknownEndpoint,
)
from services.router.core.models import Catalogue, ModelNotFound
from tests.unit.router.values import A, B, endpoints, model, state, tenant


def test_a_lost_endpoint_leaves_at_once_and_comes_back_with_its_next_state() -> None:
    known = endpoints(A, B)
    known.lost(A)
    assert known.in_service() == (B,)

    known.saw(A, state())
    assert known.in_service() == (A, B)


@pytest.mark.parametrize("readiness", [Readiness.LOADING, Readiness.FAILED])
def test_an_endpoint_without_a_ready_model_is_not_in_service(readiness: Readiness) -> None:
    known = Endpoints([A])
    known.saw(A, state(model(readiness=readiness)))

    assert known.in_service() == ()


def test_one_version_that_is_ready_serves_while_another_loads() -> None:
    known = Endpoints([A])
    known.saw(A, state(model(), model(version="2", readiness=Readiness.LOADING)))

    assert known.get(A).left_out("small") == ""


def test_an_emptied_endpoint_stays_out_until_its_process_is_another() -> None:
    known = endpoints(A)
    known.drain(A)
    known.lost(A)
    known.saw(A, state())
    assert known.in_service() == ()

    assert known.saw(A, state(instance_id="second"))
    assert known.in_service() == (A,)


def test_an_endpoint_whose_engine_hangs_is_left_out_until_it_makes_progress() -> None:
    known = endpoints(A, B)
    known.saw(A, state(without_progress_s=STALLED_AFTER_S))
    assert known.in_service() == (B,)
    assert known.get(A).left_out("small") == "stalled"

    known.saw(A, state())
    assert known.in_service() == (A, B)


def test_a_long_step_is_no_hang() -> None:
    known = endpoints(A)
    known.saw(A, state(without_progress_s=STALLED_AFTER_S / 2))

    assert known.in_service() == (A,)


@pytest.mark.parametrize(
    ("said", "standing"),
    [
        (state(), Standing.READY),
        (state(draining=True, without_progress_s=STALLED_AFTER_S), Standing.DRAINING),
        (state(without_progress_s=STALLED_AFTER_S), Standing.STALLED),
        (state(model(readiness=Readiness.LOADING)), Standing.LOADING),
        (state(model(readiness=Readiness.FAILED)), Standing.FAILED),
        (state(model(readiness=Readiness.FAILED), model(version="2")), Standing.READY),
    ],
)
def test_an_endpoint_stands_as_it_says(said: RuntimeState, standing: Standing) -> None:
    known = Endpoints([A])
    assert known.get(A).standing is Standing.UNREACHABLE

    known.saw(A, said)
    assert known.get(A).standing is standing
    assert known.get(A).ready == (standing is Standing.READY)

    known.lost(A)
    assert known.get(A).standing is Standing.UNREACHABLE


def test_the_first_state_is_no_restart() -> None:
    assert not Endpoints([A]).saw(A, state())


def test_an_address_that_nobody_told_us_of_is_unknown() -> None:
    with pytest.raises(UnknownEndpoint):
        endpoints(A).drain(B)


def test_a_catalogue_lists_what_a_tenant_may_use_and_a_runtime_serves() -> None:
    known = endpoints(A, B)
    known.saw(A, state(model(version="2", max_context_tokens=100), model(model="large")))

    listed = Catalogue().served_to(tenant(), known.all())

    assert [(each.name, each.versions, each.max_context_tokens) for each in listed] == [
        ("small", ["1", "2"], 100)
    ]
    assert listed[0].endpoints == 2


def test_a_model_keeps_the_time_at_which_it_was_first_seen() -> None:
    known, catalogue = endpoints(A), Catalogue()
    catalogue.notice(known.all(), 100.0)
    catalogue.notice(known.all(), 200.0)

    assert catalogue.get("small", tenant(), known.all()).first_seen_unix_s == 100.0


def test_a_model_of_others_is_not_found() -> None:
    with pytest.raises(ModelNotFound):
        Catalogue().get("small", tenant(models=frozenset({"large"})), endpoints(A).all())
