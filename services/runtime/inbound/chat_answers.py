"""Writes OpenAI's chat completions, and the parts that its streams share with them."""

from collections.abc import Sequence
from dataclasses import dataclass

from evenflow.openai.v1 import chat_service_pb2 as pb
from services.runtime.core.engine import Engine, FinishReason, Step, TokenLogprob
from services.runtime.inbound.owners import Owner
from services.runtime.inbound.reports import Report


@dataclass(frozen=True, slots=True)
class Heading:
    """What an answer says first, and every chunk of a streamed one."""

    id: str
    created: int
    model: str
    system_fingerprint: str

    @classmethod
    def of(cls, owner: Owner, engine: Engine, *, now_unix_s: float) -> "Heading":
        return cls(f"chatcmpl-{owner.request_id}", int(now_unix_s), engine.model, engine.version)


def completion(
    heading: Heading, steps: Sequence[Step], reason: FinishReason, report: Report
) -> pb.CreateChatCompletionResponse:
    logprobs = logprobs_of([each for step in steps for each in step.logprobs])
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
                logprobs=logprobs,
            )
        ],
        usage=usage(report),
    )


def usage(report: Report) -> pb.CompletionUsage:
    return pb.CompletionUsage(
        prompt_tokens=report.prompt_tokens,
        completion_tokens=report.output_tokens,
        total_tokens=report.prompt_tokens + report.output_tokens,
        prompt_tokens_details=pb.PromptTokensDetails(cached_tokens=report.cached_tokens),
    )


def logprobs_of(tokens: Sequence[TokenLogprob]) -> pb.ChoiceLogprobs | None:
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
