"""Which rungs a request takes."""

from collections.abc import Callable
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from services.router.core.demands import Demand, Output, Prompt, WorkloadClass
from services.router.core.ladder import Case, Climb, climbed
from services.router.core.rungs import (
    FallbackModel,
    Refuse,
    Rung,
    SmallerContext,
    SmallerOutput,
    Trigger,
    Triggers,
)
from tests.unit.router.values import demand, tenant

SATURATED, LATE, UNHEALTHY = Trigger.SATURATED, Trigger.DEADLINE_AT_RISK, Trigger.MODEL_UNHEALTHY
CHAT = demand(prompt=Prompt(3000, exact=False, chat=True), output=Output(500, "max_tokens"))
ANYONE = tenant(models=frozenset({"*"}))


def climb(
    *ladder: Rung,
    asked: Demand = CHAT,
    look: Callable[[Demand], Triggers] = lambda _: Triggers(saturated=True),
    models: frozenset[str] = frozenset({"*"}),
    workload_class: WorkloadClass = WorkloadClass.INTERACTIVE,
) -> Climb:
    case = Case(tenant(models=models), workload_class, look)
    return climbed(asked, ladder, case)


def taken(of: Climb) -> list[str]:
    return [str(each) for each in of.degraded.taken]


def holding(**models: Triggers) -> Callable[[Demand], Triggers]:
    return lambda asked: models.get(asked.model, Triggers())


def test_all_rungs_whose_trigger_holds_are_taken_in_order() -> None:
    made = climb(
        SmallerOutput(SATURATED, 128),
        FallbackModel(UNHEALTHY, "tiny"),
        SmallerContext(SATURATED, 1024),
    )

    assert taken(made) == ["smaller_output=saturated", "smaller_context=saturated"]
    assert made.demand.output == Output(128, "max_tokens")
    assert made.demand.prompt.tokens == 1024
    caps = made.degraded.caps
    assert (caps.output_tokens, caps.prompt_tokens) == (128, 1024)


def test_a_cheaper_model_answers_while_a_budget_is_low() -> None:
    made = climb(
        FallbackModel(Trigger.BUDGET_LOW, "tiny"),
        SmallerOutput(Trigger.BUDGET_LOW, 128),
        look=lambda _: Triggers(budget_low=True),
    )

    assert taken(made) == ["fallback_model=budget_low", "smaller_output=budget_low"]
    assert made.demand.model == "tiny"


def test_nothing_is_done_while_no_trigger_holds() -> None:
    made = climb(SmallerOutput(SATURATED, 1), Refuse(LATE), look=lambda _: Triggers())

    assert made == Climb(CHAT)


def test_a_stream_that_is_carried_on_goes_on_as_it_began() -> None:
    going_on = replace(CHAT, resumed_tokens=5)

    assert climb(SmallerOutput(SATURATED, 1), Refuse(LATE), asked=going_on) == Climb(going_on)


def test_a_trigger_that_a_rung_has_answered_calls_for_no_further_one() -> None:
    def look(asked: Demand) -> Triggers:
        assert asked.output is not None
        return Triggers(deadline_at_risk=(asked.output.at_most_tokens or 0) > 100)

    made = climb(SmallerOutput(LATE, 100), Refuse(LATE), look=look)
    assert (taken(made), made.refused) == (["smaller_output=deadline_at_risk"], False)

    made = climb(SmallerOutput(LATE, 101), Refuse(LATE), look=look)
    assert (taken(made), made.refused) == (["refuse=deadline_at_risk"], True)
    assert made.demand == CHAT


def test_rungs_after_another_model_are_judged_for_it() -> None:
    look = holding(small=Triggers(model_unhealthy=True), tiny=Triggers(saturated=True))

    made = climb(FallbackModel(UNHEALTHY, "tiny"), SmallerOutput(SATURATED, 64), look=look)

    assert taken(made) == ["fallback_model=model_unhealthy", "smaller_output=saturated"]
    assert made.demand.model == "tiny"


def test_a_model_is_passed_over_that_the_tenant_may_not_use_or_that_is_no_better() -> None:
    look = holding(
        small=Triggers(saturated=True),
        gone=Triggers(model_unhealthy=True),
        full=Triggers(saturated=True),
    )
    made = climb(
        FallbackModel(SATURATED, "secret"),
        FallbackModel(SATURATED, "gone"),
        FallbackModel(SATURATED, "full"),
        FallbackModel(SATURATED, "small"),
        FallbackModel(SATURATED, "tiny"),
        look=look,
        models=frozenset({"small", "gone", "full", "tiny"}),
    )

    assert made.demand.model == "tiny"
    assert taken(made) == ["fallback_model=saturated"]
    assert made.degraded.skipped == (
        "fallback_model=saturated: tenant acme may not use secret",
        "fallback_model=saturated: no runtime can answer for gone either",
        "fallback_model=saturated: saturated holds for full too",
        "fallback_model=saturated: that is the model already",
    )


def test_rungs_that_would_change_nothing_are_passed_over() -> None:
    small = demand(prompt=Prompt(50, exact=False, chat=True), output=Output(100, "max_tokens"))
    made = climb(SmallerOutput(SATURATED, 100), SmallerContext(SATURATED, 100), asked=small)

    assert made.demand == small
    assert taken(made) == []
    assert made.degraded.skipped == (
        "smaller_output=saturated: at most 100 tokens are written anyway",
        "smaller_context=saturated: the prompt has about 50 tokens",
    )


def test_an_estimate_that_may_be_too_low_leaves_the_cut_to_the_runtime() -> None:
    asked = demand(prompt=Prompt(51, exact=False, chat=True))
    made = climb(SmallerContext(SATURATED, 100), asked=asked)

    assert made.degraded.caps.prompt_tokens == 100
    assert made.demand.prompt.tokens == 51


def test_what_is_cut_is_not_cut_to_more() -> None:
    made = climb(SmallerContext(SATURATED, 100), SmallerContext(SATURATED, 150))

    assert made.degraded.caps.prompt_tokens == 100
    assert made.degraded.skipped == ("smaller_context=saturated: it is cut to 100 tokens already",)


def test_only_chats_are_cut_and_token_ids_stay_with_their_model() -> None:
    look = holding(small=Triggers(model_unhealthy=True, saturated=True))
    ids = demand(prompt=Prompt(3000, exact=True))
    made = climb(
        SmallerContext(SATURATED, 100), FallbackModel(UNHEALTHY, "tiny"), asked=ids, look=look
    )

    assert made.demand == ids
    assert made.degraded.skipped == (
        "smaller_context=saturated: only chats have turns to leave out",
        "fallback_model=model_unhealthy: token ids are of the model that was asked for",
    )


def test_who_says_no_limit_is_cut_below_what_runtimes_write() -> None:
    asked = demand(output=Output(None, "max_tokens"))

    assert taken(climb(SmallerOutput(SATURATED, 511), asked=asked)) == ["smaller_output=saturated"]
    assert taken(climb(SmallerOutput(SATURATED, 512), asked=asked)) == []


def test_counting_tokens_is_never_degraded() -> None:
    asked = demand(output=None)

    assert climb(Refuse(SATURATED), asked=asked) == Climb(asked)


RUNGS = st.one_of(
    st.builds(FallbackModel, st.sampled_from(Trigger), st.sampled_from(["small", "b", "c", "d"])),
    st.builds(SmallerOutput, st.sampled_from(Trigger), st.integers(1, 600)),
    st.builds(SmallerContext, st.sampled_from(Trigger), st.integers(1, 4000)),
    st.builds(Refuse, st.sampled_from(Trigger)),
)
LADDERS = st.lists(RUNGS, max_size=8)
HOLDING = st.builds(Triggers, st.booleans(), st.booleans(), st.booleans())
WORLDS = st.fixed_dictionaries(dict.fromkeys(("small", "b", "c", "d"), HOLDING))
DEMANDS = st.builds(
    demand,
    prompt=st.builds(Prompt, st.integers(1, 8000), st.just(value=False), st.booleans()),
    output=st.builds(Output, st.none() | st.integers(1, 1024), st.just("max_tokens")),
)


@given(LADDERS, WORLDS, DEMANDS)
def test_a_climb_only_ever_makes_a_request_smaller_and_keeps_to_the_tenants_models(
    ladder: list[Rung], world: dict[str, Triggers], asked: Demand
) -> None:
    allowed = frozenset({"small", "b"})
    made = climb(*ladder, asked=asked, look=holding(**world), models=allowed)

    assert made.demand.model in allowed
    assert asked.output is not None
    assert made.demand.output is not None
    assert made.demand.output.most(0) <= asked.output.most(0)
    assert made.demand.prompt.tokens <= asked.prompt.tokens
    if made.demand.model != asked.model:
        assert not world[made.demand.model].model_unhealthy
        assert "fallback_model" in {each.rung for each in made.degraded.taken}
    assert len(made.degraded.taken) + len(made.degraded.skipped) <= len(ladder)
    assert made.refused == (taken(made)[-1:] != [] and taken(made)[-1].startswith("refuse="))
    if made.refused:
        assert made.demand == asked
        assert len(made.degraded.taken) == 1


@given(LADDERS, WORLDS, DEMANDS)
def test_every_change_is_said(
    ladder: list[Rung], world: dict[str, Triggers], asked: Demand
) -> None:
    made = climb(*ladder, asked=asked, look=holding(**world))
    said = {each.rung for each in made.degraded.taken}
    caps = made.degraded.caps

    if not made.refused:
        assert ("fallback_model" in said) >= (made.demand.model != asked.model)
        assert ("smaller_output" in said) == bool(caps.output_tokens)
        assert ("smaller_context" in said) == bool(caps.prompt_tokens)
        assert (made.demand == asked) >= (not said)


@given(LADDERS, WORLDS, DEMANDS)
def test_high_risk_is_refused_or_left_as_it_is(
    ladder: list[Rung], world: dict[str, Triggers], asked: Demand
) -> None:
    look = holding(**world)
    made = climb(*ladder, asked=asked, look=look, workload_class=WorkloadClass.HIGH_RISK)

    assert made.demand == asked
    assert {each.rung for each in made.degraded.taken} <= {"refuse"}
    assert made.degraded.caps == replace(made.degraded.caps, output_tokens=0, prompt_tokens=0)
