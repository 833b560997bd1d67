"""Reads which prompt of the registry a request names: the same over both APIs."""

from collections.abc import Callable, Mapping
from typing import Any

from services.router.core.demands import InvalidDemand
from services.router.core.prompts import MOST_VARIABLES, Chosen, Given, Named

Choose = Callable[[Named], Chosen]


def chosen(asked: Any, choose: Choose, *, resumed: bool = False) -> Chosen:
    """`asked`: a PromptInput or a NamedPrompt, which names the version afterwards, and no more what
    led to it: requests that get the same have the same content.

    Raises InvalidDemand, and what `choose` does.
    """
    named = _named(asked)
    if resumed and named.version is None:
        text = "must be the version that `started` said: a resumption goes on with it"
        raise InvalidDemand("prompt.version", text)
    found = choose(named)
    asked.version = found.version.number
    asked.ClearField("sticky")
    return found


def _named(asked: Any) -> Named:
    if not asked.name:
        raise InvalidDemand("prompt.name", "must not be empty")
    which = asked.WhichOneof("which")
    if which == "version" and asked.version < 1:
        raise InvalidDemand("prompt.version", f"must be at least 1, got {asked.version}")
    if which == "label" and not asked.label:
        raise InvalidDemand("prompt.label", "must not be empty")
    return Named(
        name=asked.name,
        label=asked.label,
        version=asked.version if which == "version" else None,
        variables=_given(asked.variables.fields),
        sticky=asked.sticky,
    )


def _given(fields: Any) -> Mapping[str, Given]:
    if len(fields) > MOST_VARIABLES:
        raise InvalidDemand("prompt.variables", f"must be at most {MOST_VARIABLES}")
    return {name: _value(fields[name]) for name in fields}


def _value(given: Any) -> Given:
    kind = given.WhichOneof("kind")
    if kind not in ("string_value", "number_value", "bool_value"):
        return None
    found: Given = getattr(given, kind)
    return found
