"""The degradation ladder of a class, as the file says it."""

import pytest

from services.policy.core.nodes import InvalidPolicy, Problem
from services.policy.core.tenants import Rung, Step, Trigger
from tests.unit.policy.policies import ACME, policy_of

EVERY_RUNG = """\
classes:
  interactive:
    ladder:
      - {when: saturated, rung: smaller_output, max_output_tokens: 128}
      - {when: saturated, rung: smaller_context, max_prompt_tokens: 1024}
      - {when: model_unhealthy, rung: fallback_model, model: small}
      - {when: deadline_at_risk, rung: refuse}
"""


def file_with(rungs: str, workload_class: str = "interactive") -> str:
    return f"classes: {{{workload_class}: {{ladder: {rungs}}}}}\n{ACME}"


def problems_of(text: str) -> list[Problem]:
    with pytest.raises(InvalidPolicy) as caught:
        policy_of(text)
    return list(caught.value.problems)


def test_rungs_are_read_in_order() -> None:
    (rules,) = policy_of(EVERY_RUNG + ACME).classes

    assert rules.ladder == (
        Rung(when=Trigger.SATURATED, step=Step.SMALLER_OUTPUT, tokens=128),
        Rung(when=Trigger.SATURATED, step=Step.SMALLER_CONTEXT, tokens=1024),
        Rung(when=Trigger.MODEL_UNHEALTHY, step=Step.FALLBACK_MODEL, model="small"),
        Rung(when=Trigger.DEADLINE_AT_RISK, step=Step.REFUSE),
    )


def test_no_ladder_is_an_empty_one() -> None:
    assert policy_of(file_with("[]")).classes[0].ladder == ()
    assert policy_of(f"classes: {{batch: {{}}}}\n{ACME}").classes[0].ladder == ()


OUTPUT = "rung: smaller_output, max_output_tokens: 9"


@pytest.mark.parametrize(
    ("rung", "field", "message"),
    [
        ("{rung: refuse}", ".when", "is required"),
        ("{when: saturated}", ".rung", "is required"),
        ("refuse", "", "must be a mapping, got 'refuse'"),
        ("{when: soon, rung: refuse}", ".when", "must be one of saturated, deadline_at_risk"),
        ("{when: [saturated], rung: refuse}", ".when", "got a list"),
        ("{when: saturated, rung: smaller}", ".rung", "must be one of fallback_model"),
        ("{when: saturated, rung: human_review}", ".rung", "needs reviews"),
        ("{when: saturated, rung: asynchronous_job}", ".rung", "needs asynchronous jobs"),
        ("{when: saturated, rung: refuse, models: m}", ".models", "did you mean 'model'?"),
        ("{when: saturated, rung: refuse, model: m}", ".model", "is no field of refuse"),
        ("{when: saturated, rung: fallback_model}", ".model", "is required for fallback_model"),
        ('{when: saturated, rung: fallback_model, model: "*"}', ".model", "must be a model name"),
        ("{when: saturated, rung: fallback_model, model: 7}", ".model", "put it in quotes"),
        (
            "{when: saturated, rung: smaller_output}",
            ".max_output_tokens",
            "is required for smaller_output",
        ),
        (
            "{when: saturated, rung: smaller_output, max_output_tokens: 0}",
            ".max_output_tokens",
            "must be from 1 to",
        ),
        (
            "{when: saturated, rung: smaller_context, max_output_tokens: 5, max_prompt_tokens: 5}",
            ".max_output_tokens",
            "is no field of smaller_context",
        ),
        (
            "{when: saturated, rung: smaller_context, max_prompt_tokens: many}",
            ".max_prompt_tokens",
            "must be a whole number",
        ),
        (f"{{when: model_unhealthy, {OUTPUT}}}", "", "does not help when model_unhealthy"),
    ],
)
def test_a_fault_in_a_rung_is_named(rung: str, field: str, message: str) -> None:
    (problem,) = problems_of(file_with(f"[{rung}]"))

    assert problem.field == f"classes.interactive.ladder[0]{field}"
    assert message in problem.message


@pytest.mark.parametrize(
    ("rungs", "message"),
    [
        (
            f"{{when: deadline_at_risk, rung: refuse}}, {{when: saturated, {OUTPUT}}}",
            "must stand before refuse",
        ),
        (f"{{when: saturated, {OUTPUT}}}, {{when: saturated, {OUTPUT}}}", "is there twice"),
        (
            f"{{when: saturated, {OUTPUT}}}, {{when: saturated, rung: refuse}}",
            "saturated holds after them too",
        ),
        (
            (
                "{when: budget_low, rung: fallback_model, model: small},"
                " {when: budget_low, rung: refuse}"
            ),
            "budget_low holds after them too",
        ),
    ],
)
def test_a_rung_that_makes_no_sense_where_it_stands_is_refused(rungs: str, message: str) -> None:
    (problem,) = problems_of(file_with(f"[{rungs}]"))

    assert problem.field == "classes.interactive.ladder[1]"
    assert message in problem.message


def test_a_smaller_answer_may_come_before_a_refusal_where_it_may_help() -> None:
    rungs = f"{{when: deadline_at_risk, {OUTPUT}}}, {{when: deadline_at_risk, rung: refuse}}"

    assert len(policy_of(file_with(f"[{rungs}]")).classes[0].ladder) == 2


def test_high_risk_may_only_be_refused() -> None:
    refuse = "{when: saturated, rung: refuse}"
    assert policy_of(file_with(f"[{refuse}]", "high_risk")).classes[0].ladder

    fallback = "{when: model_unhealthy, rung: fallback_model, model: small}"
    (problem,) = problems_of(file_with(f"[{fallback}, {refuse}]", "high_risk"))
    assert problem.field == "classes.high_risk.ladder[0]"
    assert "high_risk is answered in full or refused" in problem.message


def test_a_problem_says_where_it_stands() -> None:
    text = EVERY_RUNG.replace("model: small", "model: small, when: saturated") + ACME

    (problem,) = problems_of(text)

    assert (problem.line, problem.column) == (6, 69)
    assert problem.field == "classes.interactive.ladder[2].when"


def test_a_ladder_is_bounded() -> None:
    rungs = [f"{{when: saturated, rung: fallback_model, model: m{at}}}" for at in range(17)]

    (problem,) = problems_of(file_with(f"[{', '.join(rungs)}]"))

    assert "must have at most 16 rungs, got 17" in problem.message
