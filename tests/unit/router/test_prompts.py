"""Which version a request gets, and what is said of variables that can't be meant."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.router.core.demands import InvalidDemand
from services.router.core.prefixes import START_BYTES
from services.router.core.prompts import (
    Chosen,
    Given,
    Kind,
    Named,
    PromptNotFound,
    Prompts,
    PromptsUnknown,
    Registered,
    Variable,
    Version,
    drawn,
    point,
)

CITY = Variable(Kind.STRING, required=True, uses=2, max_length=10)
VARIABLES = {
    "city": CITY,
    "days": Variable(Kind.INTEGER, required=False, uses=1, default_bytes=1),
    "heat": Variable(Kind.NUMBER, required=False, uses=1),
    "brief": Variable(Kind.BOOLEAN, required=False, uses=1),
    "tone": Variable(Kind.ENUM, required=False, uses=1, values=("dry", "warm")),
}
FIRST = Version(1, text_bytes=100, fixed_bytes=600, variables=VARIABLES)
SECOND = Version(2, text_bytes=50, model="small")


def prompts(*shares: tuple[int, int]) -> Prompts:
    known = Prompts()
    known.registered = Registered()
    known.registered.add("acme", "trip", FIRST)
    known.registered.add("acme", "trip", SECOND)
    if shares:
        known.registered.point(("acme", "trip", "production"), shares)
    return known


def choose(named: Named, *shares: tuple[int, int], request_id: str = "r1") -> Chosen:
    return prompts(*shares or ((2, 100),)).choose("acme", request_id, named)


def with_city(**given: Given) -> Named:
    return Named("trip", version=1, variables={"city": "Rome", **given})


SHARES = st.lists(st.integers(1, 99), max_size=4, unique=True).map(
    lambda cuts: tuple(
        (version, high - low)
        for version, (low, high) in enumerate(
            zip([0, *sorted(cuts)], [*sorted(cuts), 100], strict=True), start=1
        )
    )
)


@given(SHARES)
def test_each_version_has_as_many_points_as_its_share(shares: tuple[tuple[int, int], ...]) -> None:
    assert Counter(drawn(shares, at) for at in range(100)) == dict(shares)


@settings(max_examples=20)
@given(st.text(max_size=5), st.sampled_from(["canary", "production"]))
def test_requests_are_drawn_evenly(seed: str, label: str) -> None:
    points = Counter(point("acme", "trip", label, f"{seed}{at}") // 10 for at in range(5000))

    assert all(350 < points[tenth] < 650 for tenth in range(10))  # 500, by seven deviations


def spread() -> Prompts:
    """Two versions that take any request, half of them each."""
    known = Prompts()
    known.registered = Registered()
    known.registered.add("acme", "trip", Version(1, text_bytes=1))
    known.registered.add("acme", "trip", Version(2, text_bytes=1))
    known.registered.point(("acme", "trip", "production"), ((1, 50), (2, 50)))
    return known


@given(st.text(), st.text(), st.text(min_size=1, max_size=200))
def test_the_same_sticky_key_gets_the_same_version(one: str, other: str, sticky: str) -> None:
    named = Named("trip", sticky=sticky)

    assert spread().choose("acme", one, named) == spread().choose("acme", other, named)


def test_without_one_requests_are_spread_by_their_ids() -> None:
    known = spread()

    numbers = Counter(
        known.choose("acme", f"r{at}", Named("trip")).version.number for at in range(1000)
    )

    assert all(400 < number < 600 for number in numbers.values())


def test_a_version_may_be_named() -> None:
    assert choose(Named("trip", version=2), (1, 100)).tag == "trip@2"


@pytest.mark.parametrize(
    ("tenant", "named", "field"),
    [
        ("acme", Named("walk"), "prompt.name"),
        ("globex", Named("trip"), "prompt.name"),
        ("globex", Named("trip", version=1), "prompt.name"),
        ("acme", Named("trip", label="canary"), "prompt.label"),
        ("acme", Named("trip", version=3), "prompt.version"),
    ],
)
def test_what_the_tenant_does_not_have_is_not_found(tenant: str, named: Named, field: str) -> None:
    with pytest.raises(PromptNotFound) as caught:
        prompts((1, 100)).choose(tenant, "r1", named)

    assert caught.value.field == field


def test_before_policy_has_told_all_nothing_is_said_to_be_missing() -> None:
    with pytest.raises(PromptsUnknown):
        Prompts().choose("acme", "r1", Named("trip"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("city", "x" * 11),
        ("city", 1.0),
        ("city", True),
        ("city", None),
        ("days", 1.5),
        ("days", "1"),
        ("days", True),
        ("days", 2.0**53 + 2),
        ("days", float("inf")),
        ("heat", float("nan")),
        ("heat", "warm"),
        ("brief", "true"),
        ("brief", 1.0),
        ("tone", "cold"),
        ("tone", 1.0),
        ("moon", "full"),
    ],
)
def test_a_bad_variable_is_refused_by_name(name: str, value: Given) -> None:
    with pytest.raises(InvalidDemand) as caught:
        choose(with_city(**{name: value}))

    assert caught.value.field == f"prompt.variables.{name}"
    assert "Rome" not in str(caught.value)


def test_one_that_is_missing_is_refused_by_name() -> None:
    with pytest.raises(InvalidDemand) as caught:
        choose(Named("trip", version=1))

    assert caught.value.field == "prompt.variables.city"


def test_a_name_that_is_no_name_does_no_harm() -> None:
    with pytest.raises(InvalidDemand) as caught:
        choose(with_city(**{"é\n" * 100: "x"}))

    assert caught.value.field.isprintable()
    assert len(caught.value.field) < 200


@pytest.mark.parametrize(
    "values",
    [
        {"days": 3.0},
        {"days": -(2.0**53)},
        {"heat": 36.6},
        {"brief": False},
        {"tone": "dry"},
        {"city": "{{city}}\n"},
    ],
)
def test_values_of_each_type(values: dict[str, Any]) -> None:
    assert choose(with_city(**values)).version is FIRST


def test_its_size_is_counted_with_its_variables() -> None:
    assert choose(with_city(days=12345.0)).filled_bytes == 100 + 2 * len("Rome") + len("12345.0")
    assert choose(with_city()).filled_bytes == 100 + 2 * len("Rome") + 1


def test_requests_of_one_version_begin_alike() -> None:
    rome, oslo = choose(with_city()), choose(with_city(city="Oslo"))

    assert rome.start[:600] == oslo.start[:600]
    assert rome.start != oslo.start
    assert choose(with_city()).start == rome.start
    assert len(rome.start) <= START_BYTES


@pytest.mark.parametrize("asked", ["", "small"])
def test_the_pinned_model_answers(asked: str) -> None:
    assert choose(Named("trip", version=2)).model(asked) == "small"


def test_another_model_than_the_pinned_one_is_refused() -> None:
    with pytest.raises(InvalidDemand) as caught:
        choose(Named("trip", version=2)).model("large")

    assert caught.value.field == "model"


def test_without_a_pin_the_request_says() -> None:
    assert choose(with_city()).model("large") == "large"


def test_sticky_keys_are_short() -> None:
    with pytest.raises(InvalidDemand, match=r"prompt\.sticky"):
        choose(Named("trip", sticky="x" * 201))
