"""Follows policy's registry of prompts, with their templates."""

import asyncio
from collections.abc import Callable

from evenflow.inference.v1 import inference_service_pb2 as inference_pb
from evenflow.policy.v1 import prompt_service_pb2 as pb
from evenflow.policy.v1.prompt_service_pb2_grpc import PromptServiceStub
from services.chassis.identity import TlsFiles, channel
from services.runtime.core.prompts import Placeholder, Template, TemplateMessage

_MOST_MESSAGE_BYTES = 16 << 20
_SILENCE_S = 10.0  # policy says something every 5 s
_ROLES = {
    inference_pb.ROLE_SYSTEM: "system",
    inference_pb.ROLE_USER: "user",
    inference_pb.ROLE_ASSISTANT: "assistant",
}
_OPTIONS = [("grpc.max_receive_message_length", _MOST_MESSAGE_BYTES)]


class TemplateFollower:
    """`tell`: tenant, "<name>@<version>", template."""

    def __init__(
        self, address: str, tls: TlsFiles, tell: Callable[[str, str, Template], None]
    ) -> None:
        self._address = address
        self._tls = tls
        self._tell = tell

    async def follow(self) -> None:
        """Until the stream ends. Raises grpc.aio.AioRpcError, OSError or TimeoutError."""
        async with channel(self._address, self._tls, server="policy", options=_OPTIONS) as opened:
            call = PromptServiceStub(opened).WatchPrompts(pb.WatchPromptsRequest(templates=True))
            responses = aiter(call)
            try:
                while True:
                    async with asyncio.timeout(_SILENCE_S):
                        response = await anext(responses, None)
                    if response is None:
                        return
                    for each in response.news:
                        self._take(each)
            finally:
                call.cancel()  # a no-op once the stream has ended

    def _take(self, news: pb.PromptNews) -> None:
        if news.HasField("version"):
            tag = f"{news.name}@{news.version.version}"
            self._tell(news.tenant, tag, template(news.version))


def template(version: pb.ReleasedVersion) -> Template:
    defaults = version.defaults
    sampling = {
        name: getattr(defaults, name)
        for name in ("temperature", "top_p")
        if defaults.HasField(name)
    }
    if defaults.stop:
        sampling["stop"] = tuple(defaults.stop)
    return Template(
        messages=tuple(
            TemplateMessage(_ROLES[each.role], tuple(map(_part, each.parts)))
            for each in version.messages
        ),
        defaults={
            each.declared.name: each.declared.default
            for each in version.variables
            if each.declared.HasField("default")
        },
        model=version.model,
        max_output_tokens=(
            defaults.max_output_tokens if defaults.HasField("max_output_tokens") else None
        ),
        sampling=sampling,
    )


def _part(part: pb.ReleasedMessage.Part) -> str | Placeholder:
    return Placeholder(part.variable) if part.HasField("variable") else part.text
