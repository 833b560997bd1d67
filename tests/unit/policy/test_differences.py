"""Two policies differ where their fields do, and nowhere else."""

from dataclasses import replace
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from services.policy.core.differences import (
    Change,
    Difference,
    Place,
    Secret,
    View,
    differences,
    text,
    view,
)
from services.policy.core.tenants import (
    ApiKey,
    Budget,
    ClassRules,
    Policy,
    Price,
    Rung,
    Step,
    Tenant,
    Trigger,
    Unit,
    Window,
    WorkloadClass,
)
from tests.unit.policy.policies import tenant, tenant_lists

_budgets = st.builds(
    Budget,
    id=st.sampled_from(["daily", "all"]),
    unit=st.sampled_from(Unit),
    window=st.sampled_from(Window),
    limit=st.integers(1, 3),
    hard=st.booleans(),
)
_rungs = st.sampled_from(
    [
        Rung(when=Trigger.SATURATED, step=Step.SMALLER_OUTPUT, tokens=5),
        Rung(when=Trigger.SATURATED, step=Step.REFUSE),
    ]
)
_prices = st.builds(
    Price,
    model=st.sampled_from(["*", "small"]),
    prompt=st.integers(0, 1),
    cached_prompt=st.just(0),
    output=st.integers(0, 1),
)
_classes = st.builds(
    ClassRules,
    workload_class=st.sampled_from(WorkloadClass),
    ladder=st.lists(_rungs, max_size=2).map(tuple),
    resume=st.booleans(),
)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    """Few names, so that two of them have tenants in common."""
    known = {}
    for each in draw(tenant_lists()):
        name = draw(st.sampled_from(["acme", "globex", "initech"]))
        budgets = draw(st.lists(_budgets, max_size=2, unique_by=lambda budget: budget.id))
        known[name] = replace(each, id=name, budgets=tuple(budgets))
    return Policy(
        draw(st.sampled_from(["v1", "v2"])),
        list(known.values()),
        draw(st.lists(_classes, max_size=2, unique_by=lambda rules: rules.workload_class)),
        draw(st.sampled_from(["", "EUR"])),
        draw(st.lists(_prices, max_size=2, unique_by=lambda price: price.model)),
    )


def applied(seen: View, found: list[Difference]) -> View:
    changed = dict(seen)
    for each in found:
        assert changed.pop(each.place, None) == each.old
        if each.new is not None:
            changed[each.place] = each.new
    return changed


def turned(found: list[Difference]) -> list[Difference]:
    return [Difference(each.place, each.new, each.old) for each in found]


@given(policies(), policies())
def test_what_differs_makes_one_of_the_other(old: Policy, new: Policy) -> None:
    found = list(differences(old, new))

    assert applied(view(old), found) == view(new)
    assert applied(view(new), turned(found)) == view(old)


@given(policies(), policies())
def test_both_ways_say_the_same(old: Policy, new: Policy) -> None:
    assert set(turned(list(differences(old, new)))) == set(differences(new, old))


@given(policies(), policies())
def test_there_is_none_if_and_only_if_they_say_the_same(old: Policy, new: Policy) -> None:
    assert (not differences(old, new)) == (view(old) == view(new))
    assert not differences(old, replace(old, version="another"))


@given(policies(), st.randoms(use_true_random=False))
def test_an_order_that_means_nothing_is_none(policy: Policy, random: Random) -> None:
    def mixed(each: Tenant) -> Tenant:
        keys, models = list(each.api_keys), list(each.models)
        random.shuffle(keys)
        random.shuffle(models)
        return replace(each, api_keys=tuple(keys), models=tuple(models))

    tenants = [mixed(each) for each in policy.tenants]
    random.shuffle(tenants)

    assert not differences(policy, replace(policy, tenants=tenants))


def test_the_order_of_a_ladder_is_one() -> None:
    rungs = (
        Rung(when=Trigger.SATURATED, step=Step.SMALLER_OUTPUT, tokens=5),
        Rung(when=Trigger.DEADLINE_AT_RISK, step=Step.REFUSE),
    )
    rules = ClassRules(workload_class=WorkloadClass.BATCH, ladder=rungs)
    old = Policy("v1", [], [rules])
    new = Policy("v1", [], [replace(rules, ladder=rungs[::-1])])

    (found,) = differences(old, new)

    assert found.place == Place("classes.batch", "ladder")
    assert found.old == (
        "when saturated step smaller_output tokens 5, when deadline_at_risk step refuse"
    )


def test_old_and_new_are_told() -> None:
    old, new = tenant("acme"), replace(tenant("acme"), max_output_tokens=7, pool="")

    found = {each.place.field: each for each in differences(Policy("", [old]), Policy("", [new]))}

    assert set(found) == {"max_output_tokens", "pool"}
    output, pool = found["max_output_tokens"], found["pool"]
    assert (output.change, output.old, output.new) == (Change.CHANGED, "0", "7")
    assert (pool.change, pool.old, pool.new) == (Change.REMOVED, "vault", None)
    assert pool.place.subject == "tenants.acme"


def test_a_secret_is_changed_and_never_shown() -> None:
    old = tenant("acme")
    new = replace(old, api_keys=(ApiKey("web-1", b"\x01" * 32, "web"),))

    (found,) = differences(Policy("", [old]), Policy("", [new]))

    assert found.place.field == "api_keys.web-1.sha256"
    assert (text(found.old), text(found.new)) == ("", "")
    assert "1" not in repr(found.new)
    assert isinstance(found.new, Secret)
