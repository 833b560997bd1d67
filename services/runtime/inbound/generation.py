"""evenflow.inference.v1 on the runtime: decode, run, encode."""

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import TypeVar

import grpc

from evenflow.inference.v1 import inference_service_pb2 as pb
from evenflow.inference.v1.inference_service_pb2_grpc import InferenceServiceServicer
from services.runtime.core.demands import MAX_MESSAGES, Chat, Demand, Prompt, Text, Tokens
from services.runtime.core.engine import FinishReason, InvalidInput, Message, Step
from services.runtime.core.prompts import NO_PROMPT, Opening
from services.runtime.core.resuming import Told
from services.runtime.core.sampling import InvalidSampling, Sampling
from services.runtime.inbound.refusals import fields_named
from services.runtime.inbound.reports import Report, said_first
from services.runtime.inbound.serving import Serving, is_resumable

T = TypeVar("T")

SERVICE = "evenflow.inference.v1.InferenceService"
CALLERS = {
    f"/{SERVICE}/{method}": frozenset({"gateway"})
    for method in ("Generate", "Tokenize", "CountTokens")
}

_ROLES = {pb.ROLE_SYSTEM: "system", pb.ROLE_USER: "user", pb.ROLE_ASSISTANT: "assistant"}
_REASONS = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
}
_SAMPLING = ("temperature", "top_p", "top_k", "seed", "logprobs", "json_schema")
_FIELDS = {
    name: f"sampling.{name}" for name in (*_SAMPLING, "stop", "ignore_eos", "max_output_tokens")
}
_PROMPTS = {"chat": "chat", "text": "text", "tokens": "tokens.ids", "prompt": "prompt"}
_CHAT = "chat.messages"
_RESUMED = "resume.token_ids"


class GenerationServicer(InferenceServiceServicer):
    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    async def Generate(  # noqa: N802 - the name is the proto's
        self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.GenerateResponse]:
        names = {**_FIELDS, **_prompt_name(request), "resumed": _RESUMED}
        with fields_named(context, names):
            report = self._serving.report(self._serving.owner(context))
            opening = await self._serving.templates.opening(report.owner, request, context)
            demand = _demand(request, opening)
            told = Told() if is_resumable(demand, report.owner) else None
            async with aclosing(self._serving.run(demand, report, context)) as steps:
                async for step in steps:
                    if report.is_first(step):
                        await said_first(report, context)
                        started = self._started(report)
                        started.request_id = report.owner.request_id
                        started.resumable = told is not None
                        yield pb.GenerateResponse(started=started)
                    yield pb.GenerateResponse(delta=_delta(told.step(step) if told else step))
                    if step.finish_reason is not None:
                        yield pb.GenerateResponse(finished=_finished(step.finish_reason, report))
            whole = self._serving.answers.wanted(report)
            if whole is not None:
                self._serving.answers.offer(report, self._to_keep(whole, report))

    async def Tokenize(  # noqa: N802 - the name is the proto's
        self, request: pb.TokenizeRequest, context: grpc.aio.ServicerContext
    ) -> pb.TokenizeResponse:
        with fields_named(context, _prompt_name(request)):
            self._serving.owner(context)
            ids = await self._serving.encode(request.model, _prompt(request), context)
            return pb.TokenizeResponse(ids=ids)

    async def CountTokens(  # noqa: N802 - the name is the proto's
        self, request: pb.CountTokensRequest, context: grpc.aio.ServicerContext
    ) -> pb.CountTokensResponse:
        with fields_named(context, _prompt_name(request)):
            self._serving.owner(context)
            ids = await self._serving.encode(request.model, _prompt(request), context)
            return pb.CountTokensResponse(tokens=len(ids))

    def _to_keep(self, whole: Step, report: Report) -> Sequence[pb.GenerateResponse]:
        assert whole.finish_reason is not None, "it is whole"
        return (
            pb.GenerateResponse(started=self._started(report)),
            pb.GenerateResponse(delta=_delta(whole)),
            pb.GenerateResponse(finished=_finished(whole.finish_reason, report)),
        )

    def _started(self, report: Report) -> pb.Started:
        """Without what is this request's alone."""
        engine = self._serving.engine
        return pb.Started(
            model=engine.model,
            model_version=engine.version,
            endpoint=self._serving.endpoint,
            engine=engine.name,
            prompt_version=report.owner.prompt_version,
            degradations=[
                pb.Degradation(rung=each.rung, reason=each.reason) for each in report.degradations
            ],
        )


def _prompt_name(
    request: pb.GenerateRequest | pb.TokenizeRequest | pb.CountTokensRequest,
) -> dict[str, str]:
    return {"prompt": _PROMPTS.get(request.WhichOneof("input") or "", "input")}


def _demand(request: pb.GenerateRequest, opening: Opening) -> Demand:
    asked, unsaid = request.sampling, opening.sampling
    given = {field.name: value for field, value in asked.ListFields() if field.name in _SAMPLING}
    stop = {"stop": tuple(asked.stop)} if asked.stop else {}
    sampling = Sampling(**{**unsaid, **given, **stop, "ignore_eos": asked.ignore_eos})
    most = opening.max_output_tokens
    if asked.HasField("max_output_tokens"):
        most = asked.max_output_tokens
    if most is not None and most < 1:
        raise InvalidSampling("max_output_tokens", f"must be at least 1, got {most}")
    model = opening.model or request.model
    return Demand(model, _prompt(request, opening), sampling, most, _resumed(request))


def _resumed(request: pb.GenerateRequest) -> tuple[int, ...]:
    if not request.HasField("resume"):
        return ()
    return _not_empty(tuple(request.resume.token_ids), _RESUMED)


def _prompt(
    request: pb.GenerateRequest | pb.TokenizeRequest | pb.CountTokensRequest,
    opening: Opening = NO_PROMPT,
) -> Prompt:
    kind = request.WhichOneof("input")
    if kind == "prompt" and isinstance(request, pb.GenerateRequest):
        return Chat((*opening.messages, *_messages(request.prompt.messages, "prompt.messages")))
    if kind == "chat":
        return Chat(_messages(_not_empty(request.chat.messages, _CHAT), _CHAT))
    if kind == "text":
        return Text(_not_empty(request.text, "text"))
    if kind == "tokens" and isinstance(request, pb.GenerateRequest):
        return Tokens(_not_empty(tuple(request.tokens.ids), "tokens.ids"))
    raise InvalidInput("input", "exactly one kind of prompt is required, got none")


def _messages(said: Sequence[pb.ChatMessage], field: str) -> tuple[Message, ...]:
    messages = []
    if len(said) > MAX_MESSAGES:
        raise InvalidInput(field, f"must be at most {MAX_MESSAGES}, got {len(said)}")
    for at, message in enumerate(said):
        if message.role not in _ROLES:
            raise InvalidInput(f"{field}[{at}].role", "must be system, user or assistant")
        messages.append(Message(_ROLES[message.role], message.content))
    return tuple(messages)


def _not_empty(value: T, field: str) -> T:
    if not value:
        raise InvalidInput(field, "must not be empty")
    return value


def _delta(step: Step) -> pb.Delta:
    if not step.logprobs:
        if not step.ids:  # to name an empty field costs as much as all the rest
            return pb.Delta(text=step.text, tokens=step.tokens)
        return pb.Delta(text=step.text, tokens=step.tokens, token_ids=step.ids)
    return pb.Delta(
        text=step.text,
        tokens=step.tokens,
        token_ids=step.ids or (),
        logprobs=[
            pb.TokenLogprob(
                token=each.token,
                logprob=each.logprob,
                alternatives=[
                    pb.TokenLogprob.Alternative(token=token, logprob=logprob)
                    for token, logprob in each.alternatives
                ],
            )
            for each in step.logprobs
        ],
    )


def _finished(reason: FinishReason, report: Report) -> pb.Finished:
    """With the usage of the whole answer, which is what its caller has."""
    asked = report.prompt_tokens - report.resumed_tokens
    return pb.Finished(
        reason=_REASONS[reason],
        usage=pb.Usage(
            prompt_tokens=asked,
            cached_prompt_tokens=min(report.cached_tokens, asked),
            output_tokens=report.resumed_tokens + report.output_tokens,
        ),
    )
