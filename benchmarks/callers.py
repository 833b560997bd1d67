"""Callers of several kinds, a process of its own: `python -m benchmarks.callers ORDER`, in JSON.

Each asks one request after the other, until the time is over, and says how each of them ended. At
temperature 0 the simulated engine's answer is a function of its prompt, so every answer, and every
part of one, is compared with the one that was read before anything was broken.
"""

import asyncio
import json
import random
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, cast

import grpc
import httpx
import uvloop

from benchmarks.ends import End, Ends, end_of
from evenflow.client import Client, chat_request
from evenflow.connection import connection
from evenflow.errors import EvenflowError, FailedCall, Progress, error_of
from evenflow.inference.v1 import inference_service_pb2 as pb
from evenflow.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from evenflow.inference.v1.workload_class_pb2 import WORKLOAD_CLASS_BATCH
from evenflow.resuming import Answer

PROMPTS = 32
TOKENS = 48
DEADLINE_S = 30.0
HURRIED_S = (0.2, 4.0)  # deadlines of those in a hurry
LEAVES_WITHIN_S = 1.5
HUNG_AFTER_S = 5.0  # the deadline
AT_ONCE: Mapping[str, int] = {"resumed": 14, "stub": 8, "openai": 8, "leaver": 4, "hurried": 4}
_AFTER_ERROR_S = 0.2
_SAMPLING = pb.Sampling(temperature=0, max_output_tokens=TOKENS, ignore_eos=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    address: str
    front_end: str
    certificate_folder: str
    api_key: str
    for_s: float
    answers: Mapping[str, str] = field(default_factory=dict)  # by prompt; none: they are read first
    seed: int = 1


@dataclass(slots=True)
class Read:
    """What a caller has of one answer."""

    text: str = ""
    tokens: int = 0

    def took(self, event: object) -> None:
        if isinstance(event, pb.Delta):
            self.text += event.text
            self.tokens += event.tokens


class Carrying(Client):
    """Counts the streams that it carries on."""

    resumed = 0

    def _call(self, answer: Answer) -> Any:
        self.resumed += answer.broke
        return super()._call(answer)


class Callers:
    def __init__(self, order: Order) -> None:
        self._order = order
        self._answers = dict(order.answers)
        self._until_s = 0.0
        self._rng = random.Random(order.seed)  # noqa: S311 - a load must repeat
        self.ends = Ends()

    async def run(self) -> Mapping[str, str]:
        """Returns the answers, by prompt."""
        kinds: Mapping[str, Callable[[Any, str], Coroutine[Any, Any, None]]] = {
            "resumed": self._resumed,
            "stub": self._stub,
            "openai": self._openai,
            "leaver": self._leaver,
            "hurried": self._hurried,
        }
        if not self._answers:
            await self._read_all()
        self._until_s = time.monotonic() + self._order.for_s
        async with asyncio.TaskGroup() as tasks:
            for kind, at_once in AT_ONCE.items():
                for _ in range(at_once):
                    tasks.create_task(self._work(kind, kinds[kind]))
        return self._answers

    async def _read_all(self) -> None:
        async with self._client() as client, asyncio.TaskGroup() as tasks:
            for prompt in _prompts():
                tasks.create_task(self._read(client, prompt))

    async def _read(self, client: Client, prompt: str) -> None:
        self._answers[prompt] = await client.chat("simulated", prompt, sampling=_SAMPLING)

    async def _work(self, kind: str, ask: Callable[[Any, str], Coroutine[Any, Any, None]]) -> None:
        """On a connection of its own, as callers have."""
        async with self._connected(kind) as link:
            while time.monotonic() < self._until_s:
                before = self.ends.of(End.ANSWERED)
                prompt = self._rng.choice(_prompts())
                try:
                    async with asyncio.timeout(DEADLINE_S + HUNG_AFTER_S):
                        await ask(link, prompt)
                except TimeoutError:
                    self.ends.ended(kind, End.UNEXPLAINED, "it hung")
                if self.ends.of(End.ANSWERED) == before:
                    await asyncio.sleep(self._rng.random() * _AFTER_ERROR_S)
            if isinstance(link, Carrying):
                self.ends.resumed += link.resumed

    def _connected(self, kind: str) -> Any:
        order = self._order
        if kind == "stub":
            return connection(order.address, order.certificate_folder).channel()
        if kind == "openai":
            return httpx.AsyncClient(
                base_url=order.front_end,
                headers={"authorization": f"Bearer {order.api_key}"},
                timeout=DEADLINE_S + 2 * HUNG_AFTER_S,
                trust_env=False,
            )
        return self._client()

    def _client(self) -> Carrying:
        return Carrying(self._order.address, certificate_folder=self._order.certificate_folder)

    async def _resumed(self, client: Carrying, prompt: str) -> None:
        await self._streamed("resumed", client, prompt, deadline_s=DEADLINE_S)

    async def _hurried(self, client: Carrying, prompt: str) -> None:
        await self._streamed("hurried", client, prompt, deadline_s=self._rng.uniform(*HURRIED_S))

    async def _leaver(self, client: Carrying, prompt: str) -> None:
        try:
            async with asyncio.timeout(self._rng.uniform(0.0, LEAVES_WITHIN_S)):
                await self._streamed("leaver", client, prompt, deadline_s=DEADLINE_S)
        except TimeoutError:
            self.ends.ended("leaver", End.LEFT)

    async def _streamed(
        self, kind: str, client: Carrying, prompt: str, *, deadline_s: float
    ) -> None:
        read, began_s = Read(), time.monotonic()
        try:
            async with (
                asyncio.timeout(deadline_s + HUNG_AFTER_S),
                aclosing(client.generate(_asked(prompt), deadline_s=deadline_s)) as events,
            ):
                async for event in events:
                    read.took(event)
        except EvenflowError as error:
            self._not_answered(kind, error, time.monotonic() - began_s, deadline_s)
            self._compare(kind, prompt, read, whole=False)
        except TimeoutError:
            self.ends.ended(kind, End.UNEXPLAINED, f"it hung for {HUNG_AFTER_S} s")
        except asyncio.CancelledError:  # the caller has left
            self._compare(kind, prompt, read, whole=False)
            raise
        else:
            self._compare(kind, prompt, read, whole=True)
            self.ends.ended(kind, End.ANSWERED)

    async def _stub(self, channel: grpc.aio.Channel, prompt: str) -> None:
        read, progress, began_s = Read(), Progress(), time.monotonic()
        stub: Any = InferenceServiceStub(channel)
        asked = _asked(prompt)
        asked.workload_class = WORKLOAD_CLASS_BATCH
        try:
            async for response in stub.Generate(asked, timeout=DEADLINE_S):
                if response.HasField("started"):
                    progress.request_id = response.started.request_id
                read.took(getattr(response, response.WhichOneof("event")))
        except grpc.aio.AioRpcError as error:
            progress.text, progress.tokens = read.text, read.tokens
            failed = error_of(cast(FailedCall, error), progress)
            self._not_answered("stub", failed, time.monotonic() - began_s, DEADLINE_S)
            self._compare("stub", prompt, read, whole=False)
        else:
            self._compare("stub", prompt, read, whole=True)
            self.ends.ended("stub", End.ANSWERED)

    def _not_answered(
        self, kind: str, error: EvenflowError, took_s: float, deadline_s: float
    ) -> None:
        self.ends.ended(kind, *end_of(error, took_s=took_s, deadline_s=deadline_s))

    async def _openai(self, client: httpx.AsyncClient, prompt: str) -> None:
        body = {
            "model": "simulated",
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": TOKENS,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "workload_class": "batch",
        }
        lines: list[str] = []
        try:
            async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                async for each in answer.aiter_lines():
                    lines += [each] if each else []
        except httpx.HTTPError as error:
            self._broken(lines, error)
            return
        if answer.status_code != httpx.codes.OK:
            self._said_no("".join(lines), answer.status_code)
        elif lines[-1:] != ["data: [DONE]"]:
            self._said_no(lines[-1].removeprefix("data: ") if lines else "", 200)
        else:
            self._compare("openai", prompt, _chunks(lines), whole=True)
            self.ends.ended("openai", End.ANSWERED)

    def _broken(self, lines: list[str], error: httpx.HTTPError) -> None:
        if _chunks(lines).text:
            self.ends.ended("openai", End.CUT_OFF)
        else:
            self.ends.ended("openai", End.UNEXPLAINED, f"{error!r} after {lines}")

    def _said_no(self, said: str, status: int) -> None:
        try:
            reason = json.loads(said)["error"]["code"]
        except (ValueError, KeyError, TypeError):
            reason = None
        if not reason:
            self.ends.ended("openai", End.UNEXPLAINED, f"{status}: {said[:200]}")
        else:
            self.ends.ended(
                "openai", End.REFUSED if status != httpx.codes.OK else End.FAILED, reason
            )

    def _compare(self, kind: str, prompt: str, read: Read, *, whole: bool) -> None:
        wanted = self._answers[prompt]
        right = read.text == wanted if whole else wanted.startswith(read.text)
        counted = read.tokens in (0, TOKENS) if whole else read.tokens <= TOKENS
        if not (right and counted):
            self.ends.tokens_wrong += max(1, abs(read.tokens - TOKENS) if whole else 1)
            self.ends.wrong.append(f"{kind}: {read.tokens} tokens {read.text!r}, not {wanted!r}")


def _prompts() -> list[str]:
    return [f"{'We keep to the point. ' * 20} Question {at}" for at in range(PROMPTS)]


def _asked(prompt: str) -> pb.GenerateRequest:
    return chat_request("simulated", prompt, sampling=_SAMPLING)


def _chunks(lines: list[str]) -> Read:
    """Its tokens are not said."""
    text = ""
    for each in lines:
        said = each.removeprefix("data: ")
        if said.startswith("{"):
            for choice in json.loads(said).get("choices", ()):
                text += choice.get("delta", {}).get("content") or ""
    return Read(text)


if __name__ == "__main__":
    callers = Callers(Order(**json.loads(sys.argv[1])))
    answers = uvloop.run(callers.run())
    print(json.dumps({"ends": callers.ends.told(), "answers": answers}))
