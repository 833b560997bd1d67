"""Writes OpenAI's chat completions and chunks."""

from collections.abc import Sequence
from dataclasses import dataclass

from evenflow.openai.v1 import chat_service_pb2 as pb
from services.chassis.status import Status
from services.runtime.core.engine import Engine, FinishReason, Step, TokenLogprob
from services.runtime.inbound.owners import Owner
from services.runtime.inbound.reports import Report


@dataclass(frozen=True, slots=True)
class Heading:
    """What every chunk of one answer repeats."""

    id: str
    created: int
    model: str
    system_fingerprint: str

    @classmethod
    def of(cls, owner: Owner, engine: Engine, *, now_unix_s: float) -> "Heading":
        return cls(f"chatcmpl-{owner.request_id}", int(now_unix_s), engine.model, engine.version)


def chunk(heading: Heading, step: Step, *, first: bool) -> pb.StreamChatCompletionResponse:
    delta = pb.ChunkDelta(content=step.text)
    if first:
        delta.role = "assistant"
    choice = pb.ChunkChoice(delta=delta, logprobs=_logprobs(step.logprobs))
    if step.finish_reason is not None:
        choice.finish_reason = step.finish_reason.value
    made = _chunk(heading)
    made.choices.append(choice)
    return made


def usage_chunk(heading: Heading, report: Report) -> pb.StreamChatCompletionResponse:
    made = _chunk(heading)
    made.usage.CopyFrom(_usage(report))
    return made


def error_chunk(
    heading: Heading, error: Exception, status: Status
) -> pb.StreamChatCompletionResponse:
    """The last word of a stream that failed after its first token."""
    made = _chunk(heading)
    made.error.CopyFrom(pb.Error(message=str(error), type="server_error", code=status.reason))
    return made


def completion(
    heading: Heading, steps: Sequence[Step], reason: FinishReason, report: Report
) -> pb.CreateChatCompletionResponse:
    logprobs = [each for step in steps for each in step.logprobs]
    text = "".join(step.text for step in steps)
    return pb.CreateChatCompletionResponse(
        id=heading.id,
        object="chat.completion",
        created=heading.created,
        model=heading.model,
        system_fingerprint=heading.system_fingerprint,
        choices=[
            pb.Choice(
                message=pb.AnswerMessage(role="assistant", content=text),
                finish_reason=reason.value,
                logprobs=_logprobs(logprobs),
            )
        ],
        usage=_usage(report),
    )


def _chunk(heading: Heading) -> pb.StreamChatCompletionResponse:
    return pb.StreamChatCompletionResponse(
        id=heading.id,
        object="chat.completion.chunk",
        created=heading.created,
        model=heading.model,
        system_fingerprint=heading.system_fingerprint,
    )


def _usage(report: Report) -> pb.CompletionUsage:
    return pb.CompletionUsage(
        prompt_tokens=report.prompt_tokens,
        completion_tokens=report.output_tokens,
        total_tokens=report.prompt_tokens + report.output_tokens,
        prompt_tokens_details=pb.PromptTokensDetails(cached_tokens=report.cached_tokens),
    )


def _logprobs(tokens: Sequence[TokenLogprob]) -> pb.ChoiceLogprobs | None:
    if not tokens:
        return None
    return pb.ChoiceLogprobs(
        content=[
            pb.TokenLogprob(
                token=each.token,
                logprob=each.logprob,
                bytes=each.token.encode(),
                top_logprobs=[
                    pb.TopLogprob(token=token, logprob=logprob, bytes=token.encode())
                    for token, logprob in each.alternatives
                ],
            )
            for each in tokens
        ]
    )
