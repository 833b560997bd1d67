"""evenflow.openai.v1 on the runtime: the same stages as Generate, in OpenAI's words."""

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

import grpc

from evenflow.openai.v1 import chat_service_pb2 as pb
from evenflow.openai.v1.chat_service_pb2_grpc import ChatServiceServicer
from services.chassis.revocation import CertificateRevoked
from services.chassis.status import Status
from services.runtime.core.engine import EngineFailed
from services.runtime.core.reservations import ReservationSpent
from services.runtime.inbound.chat_answers import Heading, completion
from services.runtime.inbound.chat_events import Events, done
from services.runtime.inbound.chat_requests import demand, field_names
from services.runtime.inbound.cuts import KeyRevoked
from services.runtime.inbound.owners import Owner
from services.runtime.inbound.patience import EngineStalled
from services.runtime.inbound.refusals import ERRORS, fields_named
from services.runtime.inbound.reports import said_first
from services.runtime.inbound.serving import Serving

SERVICE = "evenflow.openai.v1.ChatService"
CALLERS = {f"/{SERVICE}/": frozenset({"gateway"})}

# What may end a stream after its first token
_BROKEN: dict[type[Exception], Status] = {
    EngineStalled: ERRORS[EngineStalled],
    EngineFailed: ERRORS[EngineFailed],
    ReservationSpent: ERRORS[ReservationSpent],
    KeyRevoked: ERRORS[KeyRevoked],
    CertificateRevoked: ERRORS[CertificateRevoked],
    TimeoutError: Status(grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE"),
}


class ChatServicer(ChatServiceServicer):
    """`now_unix_s`: the wall clock, for `created`."""

    def __init__(self, serving: Serving, *, now_unix_s: Callable[[], float]) -> None:
        self._serving = serving
        self._now_unix_s = now_unix_s

    async def CreateChatCompletion(  # noqa: N802 - the name is the proto's
        self, request: pb.CreateChatCompletionRequest, context: grpc.aio.ServicerContext
    ) -> pb.CreateChatCompletionResponse:
        chat = request.completion
        with fields_named(context, field_names(chat)):
            report = self._serving.report(self._serving.owner(context))
            heading = self._heading(report.owner)
            written = []
            async with aclosing(self._serving.run(demand(chat), report, context)) as steps:
                async for step in steps:
                    if report.is_first(step):
                        # Envoy hedges and retries until it sees these, so not a token later
                        await context.send_initial_metadata(report.headers())
                    written.append(step)
            reason = written[-1].finish_reason
            assert reason is not None, "an engine's last step has one"
            if self._serving.answers.wanted(report) is not None:
                blank = completion(self._blank_heading(), written, reason, report)
                self._serving.answers.offer(report, [blank])
            return completion(heading, written, reason, report)

    async def StreamChatCompletion(  # noqa: N802 - the name is the proto's
        self, request: pb.StreamChatCompletionRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.StreamChatCompletionResponse]:
        chat = request.completion
        with fields_named(context, field_names(chat)):
            report = self._serving.report(self._serving.owner(context))
            events = Events(self._heading(report.owner))
            try:
                async with aclosing(self._serving.run(demand(chat), report, context)) as steps:
                    async for step in steps:
                        first = report.is_first(step)
                        if first:
                            await said_first(report, context)
                        yield events.chunk(step, first=first)
            except tuple(_BROKEN) as error:
                if report.has_begun:
                    yield events.error(error, _BROKEN[type(error)])
                raise
            if chat.stream_options.include_usage:
                yield events.usage(report)
            yield done()
            whole = self._serving.answers.wanted(report)
            if whole is not None:
                blank, usage = Events(self._blank_heading()), chat.stream_options.include_usage
                said = [blank.chunk(whole, first=True), *([blank.usage(report)] if usage else [])]
                self._serving.answers.offer(report, [*said, done()])

    def _blank_heading(self) -> Heading:
        """Of an answer that a router keeps, and gives again under another id at another time."""
        return Heading("", 0, self._serving.engine.model, self._serving.engine.version)

    def _heading(self, owner: Owner) -> Heading:
        return Heading.of(owner, self._serving.engine, now_unix_s=self._now_unix_s())
