"""`evenflow chat`: one answer, or a conversation, with what each answer took."""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import typer
from rich.console import Console

from evenflow.blocking import BlockingClient, chat_request
from evenflow.cli.exits import NotThere
from evenflow.errors import Refused
from evenflow.inference.v1 import inference_service_pb2 as pb

LIST_S = 5.0  # listing the models is quick or does not come

out = Console(highlight=False, markup=False, soft_wrap=True)
notes = Console(highlight=False, markup=False, soft_wrap=True, stderr=True, style="dim")


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line says about every answer; None is the mesh's own default."""

    model: str | None
    max_output_tokens: int | None
    temperature: float | None
    deadline_s: float

    def sampling(self) -> pb.Sampling:
        return pb.Sampling(max_output_tokens=self.max_output_tokens, temperature=self.temperature)


@dataclass(slots=True)
class Clock:
    """When things happened, in seconds on the monotonic clock."""

    asked_s: float
    first_s: float = 0.0
    last_s: float = 0.0


def chat(client: BlockingClient, asked: Asked, message: str | None) -> None:
    """Without a message: what stdin holds, or a conversation if it is a terminal."""
    model = asked.model or _first_model(client)
    if message is None and not sys.stdin.isatty():
        message = sys.stdin.read()
    if message is not None:
        _answer(client, model, asked, [_said(pb.ROLE_USER, message)])
        return
    notes.print(f"{model}; Ctrl-C stops an answer, Ctrl-D ends the conversation")
    messages: list[pb.ChatMessage] = []
    for line in _lines():
        messages.append(_said(pb.ROLE_USER, line))
        try:
            messages.append(_said(pb.ROLE_ASSISTANT, _answer(client, model, asked, messages)))
        except Refused as error:  # the conversation goes on, without what was refused
            messages.pop()
            typer.echo(f"evenflow: refused: {error}", err=True)
        except KeyboardInterrupt:
            messages.pop()
            notes.print("\n(stopped)")


def _answer(
    client: BlockingClient, model: str, asked: Asked, messages: Sequence[pb.ChatMessage]
) -> str:
    request = chat_request(model, messages, sampling=asked.sampling())
    clock = Clock(asked_s=time.monotonic())
    text = ""
    started, finished = pb.Started(), pb.Finished()
    for event in client.generate(request, deadline_s=asked.deadline_s):
        clock.last_s = time.monotonic()
        if isinstance(event, pb.Started):
            started, clock.first_s = event, clock.last_s
        elif isinstance(event, pb.Delta):
            text += event.text
            out.print(event.text, end="")
        else:
            finished = event
    out.print()
    for line in summary(started, finished, clock):
        notes.print(line)
    return text


def summary(started: pb.Started, finished: pb.Finished, clock: Clock) -> Iterator[str]:
    """What an answer took, and what was made smaller for it."""
    usage = finished.usage
    writing_s = clock.last_s - clock.first_s
    rate = f", {(usage.output_tokens - 1) / writing_s:.0f} tokens/s" if writing_s > 0 else ""
    yield (
        f"TTFT {(clock.first_s - clock.asked_s) * 1000:.0f} ms, "
        f"{usage.output_tokens} tokens in {clock.last_s - clock.asked_s:.1f} s{rate}; "
        f"prompt {usage.prompt_tokens} tokens, {usage.cached_prompt_tokens} of them cached"
    )
    yield f"{started.model} {started.model_version} on {started.engine}, {started.endpoint}"
    for each in started.degradations:
        yield f"degraded: {each.rung}, because {each.reason}"
    if finished.reason == pb.FINISH_REASON_LENGTH:
        yield "cut off: the output limit was reached"
    yield f"request {started.request_id}"


def _first_model(client: BlockingClient) -> str:
    models = client.list_models(deadline_s=LIST_S)
    if not models:
        raise NotThere("no model is served for this tenant now; see `evenflow status`")
    return models[0].name


def _said(role: "pb.Role.ValueType", content: str) -> pb.ChatMessage:
    return pb.ChatMessage(role=role, content=content)


def _lines() -> Iterator[str]:
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            print()
            return
        if line:
            yield line
