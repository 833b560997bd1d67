"""Reads the degradation ladder of a workload class: what is given up, when, and in which order."""

import re
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import TypeVar

from services.policy.core import fields
from services.policy.core.fields import MAX_TOKENS, Notes
from services.policy.core.nodes import Node, Scalar, kind_of
from services.policy.core.tenants import Rung, Step, Trigger, WorkloadClass

E = TypeVar("E", bound=Enum)

_MOST_RUNGS = 16
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}")
_FIELDS: Mapping[Step, str] = {  # what each needs beside `when` and `rung`
    Step.FALLBACK_MODEL: "model",
    Step.SMALLER_OUTPUT: "max_output_tokens",
    Step.SMALLER_CONTEXT: "max_prompt_tokens",
}
_SMALLER = (Step.SMALLER_OUTPUT, Step.SMALLER_CONTEXT)
_HELD_AFTER: Mapping[Trigger, tuple[Step, ...]] = {  # by what a trigger is not answered
    Trigger.SATURATED: _SMALLER,
    Trigger.BUDGET_LOW: (*_SMALLER, Step.FALLBACK_MODEL),
}
_ANY_FIELD = ("when", "rung", *_FIELDS.values())
_LATER = {
    "asynchronous_job": "needs asynchronous jobs, which there are none of yet",
    "human_review": "needs reviews, which there are none of yet",
}


def read_ladder(node: Node | None, at: str, notes: Notes, *, of: WorkloadClass) -> tuple[Rung, ...]:
    items = fields.items(node, at, notes)
    if node is not None and len(items) > _MOST_RUNGS:
        notes.add(node, at, f"must have at most {_MOST_RUNGS} rungs, got {len(items)}")
        return ()
    found = [(each, _rung(each, f"{at}[{index}]", notes)) for index, each in enumerate(items)]
    known: list[Rung] = []
    for index, (item, rung) in enumerate(found):
        if rung is not None:
            problem = _misplaced(rung, known) or _not_for(of, rung)
            if problem:
                notes.add(item, f"{at}[{index}]", problem)
            known.append(rung)
    return tuple(known)


def _rung(node: Node, at: str, notes: Notes) -> Rung | None:
    """None only where a problem was noted."""
    found = fields.entries(node, at, notes, required=("when", "rung"), optional=_ANY_FIELD[2:])
    when = _one_of(Trigger, found.get("when"), f"{at}.when", notes)
    step = _one_of(Step, found.get("rung"), f"{at}.rung", notes)
    if step is None:
        return None
    _note_strangers(found, node, at, notes, step=step)
    model, tokens = _model(found.get("model"), at, notes), _tokens(found, at, notes, step=step)
    return None if when is None else Rung(when=when, step=step, model=model, tokens=tokens)


def _note_strangers(
    found: Mapping[str, Node], node: Node, at: str, notes: Notes, *, step: Step
) -> None:
    needed = _FIELDS.get(step)
    for name, value in found.items():
        if name not in ("when", "rung", needed):
            notes.add(value, f"{at}.{name}", f"is no field of {step.value}")
    if needed is not None and needed not in found:
        notes.add(node, f"{at}.{needed}", f"is required for {step.value}")


def _model(node: Node | None, at: str, notes: Notes) -> str:
    name = fields.text(node, f"{at}.model", notes, pattern=_MODEL, expected="a model name")
    return name or ""


def _tokens(found: Mapping[str, Node], at: str, notes: Notes, *, step: Step) -> int:
    name = _FIELDS.get(step, "")
    if step is Step.FALLBACK_MODEL or name not in found:
        return 0
    return fields.whole(found[name], f"{at}.{name}", notes, between=(1, MAX_TOKENS))


def _one_of(kind: type[E], node: Node | None, at: str, notes: Notes) -> E | None:
    if node is None:
        return None
    name = node.text if isinstance(node, Scalar) else ""
    if name in {each.value for each in kind}:
        return kind(name)
    allowed = ", ".join(each.value for each in kind)
    why = _LATER.get(name) or f"must be one of {allowed}, got {kind_of(node)}"
    notes.add(node, at, why)
    return None


def _misplaced(rung: Rung, before: Sequence[Rung]) -> str:
    """Why a rung can never be taken, or takes away the sense of those before it."""
    if rung.step is not Step.REFUSE and any(each.step is Step.REFUSE for each in before):
        return "must stand before refuse, which comes last"
    if rung.when is Trigger.MODEL_UNHEALTHY and rung.step not in (
        Step.FALLBACK_MODEL,
        Step.REFUSE,
    ):
        return "does not help when model_unhealthy: only fallback_model and refuse do"
    if rung in before:
        return "is there twice"
    if rung.step is Step.REFUSE and any(
        each.when is rung.when and each.step in _HELD_AFTER.get(rung.when, ()) for each in before
    ):
        holds = f"{rung.when.value} holds after them too"
        return f"makes the smaller rungs before it useless: {holds}"
    return ""


def _not_for(of: WorkloadClass, rung: Rung) -> str:
    if of is WorkloadClass.HIGH_RISK and rung.step is not Step.REFUSE:
        return "high_risk is answered in full or refused: only refuse may stand here"
    return ""
