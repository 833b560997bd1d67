"""However many tenants, models and reasons there are, the metrics stay small."""

from hypothesis import given
from hypothesis import strategies as st

from services.telemetry.core.labels import MAX_REASONS, NOBODY, OTHER, Labels
from services.telemetry.core.records import WorkloadClass
from tests.unit.telemetry.observations import REFUSED, observed

names = st.sampled_from([f"name-{number}" for number in range(8)])


def labels(*, tenants: int = 10, models: int = 10, series: int = 100) -> Labels:
    return Labels(max_tenants=tenants, max_models=models, max_series=series)


@given(st.lists(st.tuples(names, names, st.sampled_from(WorkloadClass)), max_size=60))
def test_labels_never_outgrow_their_bounds(
    seen: list[tuple[str, str, WorkloadClass]],
) -> None:
    bounded = labels(tenants=3, models=2, series=5)

    given_out = {
        bounded.series(observed(tenant=tenant, model=model, workload_class=each))
        for tenant, model, each in seen
    }

    assert len({series.tenant for series in given_out} - {OTHER}) <= 3
    assert len({series.model for series in given_out} - {OTHER}) <= 2
    assert len({series for series in given_out if series.tenant != OTHER}) <= 5


def test_who_came_first_keeps_its_name() -> None:
    bounded = labels(tenants=1)

    tenants = [bounded.series(observed(tenant=name)).tenant for name in ("a", "b", "a")]

    assert tenants == ["a", OTHER, "a"]


def test_a_word_that_a_caller_made_up_is_no_label() -> None:
    bounded = labels(models=1)
    refused = observed(model="made up", engine="", code="NOT_FOUND", reason="MODEL_NOT_FOUND")

    assert bounded.series(refused).model == OTHER
    assert bounded.series(observed(model="smollm2")).model == "smollm2"
    assert bounded.series(REFUSED).model == "smollm2"


def test_the_tenants_of_lost_attempts_share_the_bound() -> None:
    bounded = labels(tenants=2)
    bounded.series(observed(tenant="a"))

    tenants = [bounded.tenant(name) for name in ("b", "c", "a", "")]

    assert tenants == ["b", OTHER, "a", NOBODY]


def test_an_unknown_caller_is_nobody() -> None:
    assert labels().series(observed(tenant="")).tenant == NOBODY


def test_reasons_are_bounded_and_may_be_absent() -> None:
    bounded = labels()

    seen = {bounded.reason(observed(reason=f"R{number}")) for number in range(2 * MAX_REASONS)}

    assert len(seen) == MAX_REASONS + 1
    assert bounded.reason(observed()) == ""


def test_an_endless_name_is_other() -> None:
    assert labels().series(observed(tenant="a" * 1000)).tenant == OTHER
