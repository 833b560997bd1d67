"""Follows policy's registry of prompts: names, labels and what versions declare, no templates."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

import structlog

from evenflow.policy.v1 import prompt_service_pb2 as pb
from evenflow.policy.v1.prompt_service_pb2_grpc import PromptServiceStub
from services.chassis.identity import TlsFiles, channel
from services.router.core.prompts import Kind, Prompts, Registered, Variable, Version

_MOST_MESSAGE_BYTES = 16 << 20
_SILENCE_S = 10.0  # policy says something every 5 s
_KINDS = {
    pb.VARIABLE_TYPE_STRING: Kind.STRING,
    pb.VARIABLE_TYPE_INTEGER: Kind.INTEGER,
    pb.VARIABLE_TYPE_NUMBER: Kind.NUMBER,
    pb.VARIABLE_TYPE_BOOLEAN: Kind.BOOLEAN,
    pb.VARIABLE_TYPE_ENUM: Kind.ENUM,
}

_log = structlog.get_logger(__name__)


class PromptSource(Protocol):
    def words(self) -> AsyncGenerator[pb.WatchPromptsResponse, None]:
        """All that there is, then each change, and a sign of life at least every 5 s.

        Raises grpc.aio.AioRpcError, OSError or TimeoutError when policy can't be reached.
        """


class GrpcPromptSource:
    def __init__(self, address: str, tls: TlsFiles) -> None:
        self._address = address
        self._tls = tls

    async def words(self) -> AsyncGenerator[pb.WatchPromptsResponse, None]:
        options = [("grpc.max_receive_message_length", _MOST_MESSAGE_BYTES)]
        async with channel(self._address, self._tls, server="policy", options=options) as opened:
            call = PromptServiceStub(opened).WatchPrompts(pb.WatchPromptsRequest())
            responses = aiter(call)
            try:
                while True:
                    async with asyncio.timeout(_SILENCE_S):
                        response = await anext(responses, None)
                    if response is None:
                        return
                    yield response
            finally:
                call.cancel()  # a no-op once the stream has ended


class PromptFollower:
    """What was told last stays in force until a new stream has told all there is."""

    def __init__(self, prompts: Prompts) -> None:
        self._prompts = prompts

    async def follow(self, source: PromptSource) -> None:
        """Until the stream ends or fails."""
        registered = Registered()
        async with aclosing(source.words()) as words:
            async for word in words:
                for each in word.news:
                    _take(registered, each)
                if word.complete:
                    self._prompts.registered = registered


def _take(registered: Registered, news: pb.PromptNews) -> None:
    if news.HasField("version"):
        registered.add(news.tenant, news.name, _version(news.version))
    elif news.HasField("label"):
        shares = tuple((each.version, each.percent) for each in news.label.shares)
        if sum(percent for _, percent in shares) == 100:
            registered.point((news.tenant, news.name, news.label.label), shares)
        else:
            _log.error("prompts.refused", prompt=news.name, label=news.label.label)


def _version(version: pb.ReleasedVersion) -> Version:
    defaults = version.defaults
    most, temperature = defaults.max_output_tokens, defaults.temperature
    return Version(
        number=version.version,
        text_bytes=version.text_bytes,
        fixed_bytes=version.fixed_bytes,
        variables={each.declared.name: _variable(each) for each in version.variables},
        model=version.model,
        output_tokens=most if defaults.HasField("max_output_tokens") else None,
        temperature=temperature if defaults.HasField("temperature") else None,
    )


def _variable(variable: pb.ReleasedVariable) -> Variable:
    declared = variable.declared
    return Variable(
        # One of a type that this router does not know takes what it takes for text.
        kind=_KINDS.get(declared.type, Kind.STRING),
        required=not declared.HasField("default"),
        uses=variable.uses,
        default_bytes=len(declared.default.encode()),
        max_length=declared.max_length,
        values=tuple(declared.values),
    )
