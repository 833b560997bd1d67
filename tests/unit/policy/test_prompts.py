"""What a version may say, and by what name it is told what is wrong."""

from typing import Any

import pytest

from services.policy.core.prompts import (
    Content,
    Defaults,
    InvalidPrompt,
    Role,
    TemplateMessage,
    Type,
    Variable,
)


def content(
    text: str = "Hello", *variables: Variable, model: str = "", defaults: Any = None
) -> Content:
    messages = (TemplateMessage(Role.USER, text),)
    return Content(messages, variables, model, defaults or Defaults())


def test_uses_are_counted() -> None:
    assert content("{{a}} {{a}}", Variable("a", Type.STRING)).uses() == {"a": 2}


STRING = Variable("a", Type.STRING)
ENUM = Variable("a", Type.ENUM, values=("x", "y"))
LONG = Variable("a", Type.STRING, max_length=100_000)


@pytest.mark.parametrize(
    ("text", "variables", "field"),
    [
        ("{{a}}", (), "content.messages"),
        ("no", (STRING,), "content.variables[0].name"),
        ("{{a}}", (STRING, STRING), "content.variables[1].name"),
        ("{{A", (), "content.messages[0].content"),
        ("x" * 200_001, (), "content.messages"),
        ("{{a}}" * 10, (LONG,), "content.variables"),
        ("{{a}}", (Variable("A", Type.STRING),), "content.variables[0].name"),
        ("{{a}}", (Variable("a", Type.ENUM),), "content.variables[0].values"),
        ("{{a}}", (Variable("a", Type.STRING, values=("x",)),), "content.variables[0].values"),
        ("{{a}}", (Variable("a", Type.ENUM, values=("x", "x")),), "content.variables[0].values"),
        ("{{a}}", (Variable("a", Type.NUMBER, max_length=3),), "content.variables[0].max_length"),
        ("{{a}}", (Variable("a", Type.STRING, "abc", 2),), "content.variables[0].default"),
        ("{{a}}", (Variable("a", Type.INTEGER, "1.5"),), "content.variables[0].default"),
        ("{{a}}", (Variable("a", Type.INTEGER, str(2**53 + 1)),), "content.variables[0].default"),
        ("{{a}}", (Variable("a", Type.NUMBER, "nan"),), "content.variables[0].default"),
        ("{{a}}", (Variable("a", Type.BOOLEAN, "yes"),), "content.variables[0].default"),
        ("{{a}}", (Variable("a", Type.ENUM, "z", values=("x",)),), "content.variables[0].default"),
    ],
)
def test_what_is_wrong_is_named(text: str, variables: tuple[Variable, ...], field: str) -> None:
    with pytest.raises(InvalidPrompt) as caught:
        content(text, *variables)

    assert caught.value.field == field


@pytest.mark.parametrize(
    ("defaults", "field"),
    [
        (Defaults(max_output_tokens=0), "max_output_tokens"),
        (Defaults(temperature=2.1), "temperature"),
        (Defaults(temperature=float("nan")), "temperature"),
        (Defaults(top_p=0.0), "top_p"),
        (Defaults(stop=("",)), "stop"),
        (Defaults(stop=("x",) * 9), "stop"),
    ],
)
def test_defaults_are_what_a_request_could_say(defaults: Defaults, field: str) -> None:
    with pytest.raises(InvalidPrompt) as caught:
        content(defaults=defaults)

    assert caught.value.field == f"content.defaults.{field}"


@pytest.mark.parametrize("messages", [0, 65])
def test_there_is_at_least_one_message_and_not_too_many(messages: int) -> None:
    with pytest.raises(InvalidPrompt, match="must be 1 to 64"):
        Content((TemplateMessage(Role.USER, "x"),) * messages)


def test_a_model_is_a_name() -> None:
    with pytest.raises(InvalidPrompt, match=r"content\.model"):
        content(model="no such\nmodel")


@pytest.mark.parametrize(
    "variable",
    [
        Variable("a", Type.STRING, "", 2),
        Variable("a", Type.INTEGER, "-12"),
        Variable("a", Type.NUMBER, "0.25"),
        Variable("a", Type.BOOLEAN, "true"),
        Variable("a", Type.ENUM, "y", values=("x", "y")),
    ],
)
def test_defaults_of_each_type(variable: Variable) -> None:
    assert content("{{a}}", variable).variables == (variable,)
