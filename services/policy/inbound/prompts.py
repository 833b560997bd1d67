"""The registry of prompts over gRPC: operators change it, routers and runtimes follow it."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import grpc

from evenflow.policy.v1 import prompt_service_pb2 as pb
from evenflow.policy.v1 import prompt_service_pb2_grpc as pb_grpc
from services.chassis.callers import AllowedCallers
from services.chassis.identity import peer_id
from services.chassis.status import ErrorTable, Status
from services.policy.core.audit import Audit, Deed
from services.policy.core.labels import NothingBefore, checked_label, checked_shares
from services.policy.core.prompts import TENANT, InvalidPrompt
from services.policy.core.registry import (
    Author,
    Key,
    Pointed,
    PromptNotFound,
    PromptVersionExists,
    Registry,
    RegistryUnreachable,
    Wanted,
)
from services.policy.inbound.prompt_messages import (
    content_of,
    share_messages,
    shares_of,
    summary_message,
    version_message,
)
from services.policy.inbound.prompt_news import PromptNews
from services.policy.served import Served

SERVICE: str = pb.DESCRIPTOR.services_by_name["PromptService"].full_name
CALLERS: AllowedCallers = {
    f"/{SERVICE}/": frozenset({"operator"}),
    f"/{SERVICE}/WatchPrompts": frozenset({"router", "runtime"}),
}
ERRORS: ErrorTable = {
    InvalidPrompt: Status(grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID"),
    PromptNotFound: Status(grpc.StatusCode.NOT_FOUND, "PROMPT_NOT_FOUND"),
    PromptVersionExists: Status(grpc.StatusCode.ALREADY_EXISTS, "PROMPT_VERSION_EXISTS"),
    NothingBefore: Status(grpc.StatusCode.FAILED_PRECONDITION, "NOTHING_BEFORE"),
    RegistryUnreachable: Status(grpc.StatusCode.UNAVAILABLE, "DATABASE_UNREACHABLE"),
}


class PromptServicer(pb_grpc.PromptServiceServicer):
    """`now_unix_s`: the wall clock, for who did what when."""

    def __init__(
        self,
        registry: Registry,
        news: PromptNews,
        audit: Audit,
        *,
        now_unix_s: Callable[[], float],
    ) -> None:
        self._registry = registry
        self._news = news
        self._audit = audit
        self._now_unix_s = now_unix_s

    async def CreatePromptVersion(  # noqa: N802 - the name is the proto's
        self, request: pb.CreatePromptVersionRequest, context: grpc.aio.ServicerContext
    ) -> pb.CreatePromptVersionResponse:
        key, author = Key(request.tenant, request.name), self._author(context)
        wanted = Wanted(request.version, content_of(request.content))
        facts = {"version": str(request.version or "next")}
        async with self._audited(author, "prompt.version_created", key, facts) as done:
            made = await self._registry.create(key, wanted, author)
            done["version"] = str(made.number)
        return pb.CreatePromptVersionResponse(version=made.number, created=made.is_new)

    async def GetPromptVersion(  # noqa: N802 - the name is the proto's
        self, request: pb.GetPromptVersionRequest, context: grpc.aio.ServicerContext
    ) -> pb.GetPromptVersionResponse:
        key = Key(request.tenant, request.name)
        return version_message(await self._registry.version(key, request.version))

    async def ListPrompts(  # noqa: N802 - the name is the proto's
        self, request: pb.ListPromptsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListPromptsResponse:
        if not TENANT.fullmatch(request.tenant):
            raise InvalidPrompt("tenant", "must be a tenant's id")
        found = await self._registry.summaries(request.tenant, request.name)
        with_moves = bool(request.name)
        return pb.ListPromptsResponse(
            prompts=[summary_message(each, with_moves=with_moves) for each in found]
        )

    async def SetLabel(  # noqa: N802 - the name is the proto's
        self, request: pb.SetLabelRequest, context: grpc.aio.ServicerContext
    ) -> pb.SetLabelResponse:
        key, author = Key(request.tenant, request.name), self._author(context)
        pointed = Pointed(checked_label(request.label), checked_shares(shares_of(request.shares)))
        facts = {
            "label": pointed.label,
            "shares": ",".join(f"{each.version}:{each.percent}" for each in pointed.shares),
        }
        async with self._audited(author, "prompt.label_moved", key, facts):
            move, _ = await self._registry.point(key, pointed, author)
        return pb.SetLabelResponse(move=move.number)

    async def RollBackLabel(  # noqa: N802 - the name is the proto's
        self, request: pb.RollBackLabelRequest, context: grpc.aio.ServicerContext
    ) -> pb.RollBackLabelResponse:
        key, author = Key(request.tenant, request.name), self._author(context)
        label = checked_label(request.label)
        facts = {"label": label}
        async with self._audited(author, "prompt.label_rolled_back", key, facts) as done:
            move = await self._registry.roll_back(key, label, author)
            done["shares"] = ",".join(f"{each.version}:{each.percent}" for each in move.shares)
        return pb.RollBackLabelResponse(shares=share_messages(move.shares), move=move.number)

    async def WatchPrompts(  # noqa: N802 - the name is the proto's
        self, request: pb.WatchPromptsRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.WatchPromptsResponse]:
        async for response in self._news.watch(templates=request.templates):
            yield response

    def _author(self, context: grpc.aio.ServicerContext) -> Author:
        return Author(str(peer_id(context) or ""), self._now_unix_s())

    @asynccontextmanager
    async def _audited(
        self, author: Author, action: str, key: Key, facts: dict[str, str]
    ) -> AsyncIterator[dict[str, str]]:
        """Written down before it happens, so that nothing happens that could not be; and again with
        what came of it."""

        def deed(outcome: str) -> Deed:
            subject = f"{key.tenant}/{key.name}"
            return Deed(
                actor=author.name,
                action=action,
                subject=subject,
                outcome=outcome,
                tenant=key.tenant,
                facts=dict(facts),
            )

        await self._audit.record(deed("begun"))
        try:
            yield facts
        except tuple(ERRORS) as error:
            await self._audit.record(deed(ERRORS[type(error)].reason))
            raise
        finally:
            self._news.stir()  # also where the caller left in the middle
        await self._audit.record(deed("done"))


def served(servicer: PromptServicer) -> Served:
    add = partial(pb_grpc.add_PromptServiceServicer_to_server, servicer)
    return Served(SERVICE, CALLERS, add, ERRORS)
