"""The templates that this runtime was told of, and requests that wait for one that is on its way.

A router may hear of a version a moment before its runtimes do. What was told is kept: versions
never change, so without policy the runtime goes on with what it has.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import grpc

from services.chassis.deadline import Deadline
from services.runtime.core.engine import InvalidInput
from services.runtime.core.prompts import NO_PROMPT, Given, Opening, Template, opening
from services.runtime.inbound.owners import Owner
from services.runtime.inbound.patience import END_EARLY_S

_PATIENCE_S = 1.0


class TemplateNotHere(Exception):
    """This runtime has not heard of the prompt's version; another endpoint may have."""


class Templates:
    """`followed`: somebody tells of more; else nothing is waited for."""

    def __init__(self, *, followed: bool) -> None:
        self._followed = followed
        self._known: dict[tuple[str, str], Template] = {}  # by tenant, and "<name>@<version>"
        self._told = asyncio.Event()
        self.waiting = 0  # requests

    def tell(self, tenant: str, tag: str, template: Template) -> None:
        self._known[tenant, tag] = template
        self._told.set()
        self._told = asyncio.Event()

    async def opening(
        self, owner: Owner, request: Any, context: grpc.aio.ServicerContext
    ) -> Opening:
        """`request`: a GenerateRequest or a ChatCompletion.

        Raises InvalidInput, TemplateNotHere.
        """
        if not request.HasField("prompt"):
            return NO_PROMPT
        if not owner.prompt:
            raise InvalidInput("x-evenflow-prompt", "must be set by the gateway")
        template = await self._find((owner.tenant, owner.prompt), Deadline.of(context))
        return opening(template, _given(request.prompt.variables.fields))

    async def _find(self, key: tuple[str, str], deadline: Deadline) -> Template:
        if key not in self._known and self._followed:
            now_s = asyncio.get_running_loop().time()
            until_s = min(now_s + _PATIENCE_S, deadline.at_s - END_EARLY_S)
            self.waiting += 1
            try:
                async with asyncio.timeout_at(until_s):
                    while key not in self._known:
                        await self._told.wait()
            except TimeoutError:
                pass  # as told below
            finally:
                self.waiting -= 1
        try:
            return self._known[key]
        except KeyError:
            raise TemplateNotHere(f"this runtime has not heard of the prompt {key[1]}") from None


def _given(fields: Any) -> Mapping[str, Given]:
    return {name: _value(fields[name]) for name in fields}


def _value(given: Any) -> Given:
    kind = given.WhichOneof("kind")
    if kind not in ("string_value", "number_value", "bool_value"):
        return None
    found: Given = getattr(given, kind)
    return found
