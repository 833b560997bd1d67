"""People who talk, a process of its own: `python -m benchmarks.conversations ORDER`, all in JSON.

Each of so many people begins a conversation with one of several system prompts of one tenant, asks,
reads the answer, thinks, asks again with all that was said before, and after some turns begins the
next conversation. With no turns to speak of and a prompt of one's own each time, nothing is shared.
"""

import asyncio
import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field

import uvloop

from evenflow.client import Client
from evenflow.errors import EvenflowError
from evenflow.inference.v1 import inference_service_pb2 as pb

DEADLINE_S = 120.0
WORDS = (
    "time",
    "year",
    "people",
    "way",
    "day",
    "thing",
    "life",
    "world",
    "school",
    "state",
    "part",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    address: str
    certificate_folders: Sequence[str]  # one for each tenant
    model: str
    people: int
    for_s: float  # how long turns are begun
    warm_s: float = 0.0  # what ends before is not counted
    think_s: float = 1.0  # on average
    systems: int = 0  # system prompts, shared out among the tenants; 0: each conversation its own
    system_words: int = 0
    question_words: int = 60
    answer_tokens: int = 32
    turns: int = 1
    seed: int = 1


@dataclass(slots=True)
class Outcome:
    good: int = 0
    failed: int = 0
    counted_s: float = 0.0
    first_token_s: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    cached_tokens: int = 0


class People:
    def __init__(self, order: Order, clients: Sequence[Client]) -> None:
        self._order = order
        self._clients = clients
        self._outcome = Outcome()
        self._from_s = time.perf_counter() + order.warm_s
        self._until_s = time.perf_counter() + order.for_s

    async def run(self) -> Outcome:
        async with asyncio.TaskGroup() as tasks:
            for number in range(self._order.people):
                rng = random.Random(f"{self._order.seed} {number}")  # noqa: S311 - a load must repeat
                tasks.create_task(self._person(rng))
        self._outcome.counted_s = self._order.for_s - self._order.warm_s
        return self._outcome

    async def _person(self, rng: random.Random) -> None:
        await asyncio.sleep(rng.random() * self._order.think_s)
        while time.perf_counter() < self._until_s:
            await self._conversation(rng)

    async def _conversation(self, rng: random.Random) -> None:
        order = self._order
        which = rng.randrange(order.systems) if order.systems else rng.getrandbits(32)
        client = self._clients[which % len(self._clients)]
        told = random.Random(f"{order.seed} {which}")  # noqa: S311 - as above
        system = f"{which} " + " ".join(words(told, order.system_words))
        messages = [pb.ChatMessage(role=pb.ROLE_SYSTEM, content=system)]
        for _ in range(order.turns):
            if time.perf_counter() >= self._until_s:
                return
            question = " ".join(words(rng, order.question_words))
            messages.append(pb.ChatMessage(role=pb.ROLE_USER, content=question))
            answer = await self._turn(client, messages)
            messages.append(pb.ChatMessage(role=pb.ROLE_ASSISTANT, content=answer))
            await asyncio.sleep(rng.expovariate(1 / order.think_s))

    async def _turn(self, client: Client, messages: Sequence[pb.ChatMessage]) -> str:
        order, outcome = self._order, self._outcome
        asked = pb.GenerateRequest(model=order.model, chat=pb.ChatInput(messages=messages))
        asked.sampling.max_output_tokens = order.answer_tokens
        asked.sampling.ignore_eos = True
        began_s, first_s, text = time.perf_counter(), 0.0, ""
        usage = pb.Usage()
        try:
            async for event in client.generate(asked, deadline_s=DEADLINE_S):
                if isinstance(event, pb.Delta):
                    first_s = first_s or time.perf_counter() - began_s
                    text += event.text
                elif isinstance(event, pb.Finished):
                    usage = event.usage
        except EvenflowError as error:
            if not outcome.failed:
                print(f"the first that failed: {error}", file=sys.stderr)
            outcome.failed += 1
            return text
        if self._from_s <= time.perf_counter() < self._until_s:
            outcome.good += 1
            outcome.first_token_s.append(first_s)
            outcome.prompt_tokens += usage.prompt_tokens
            outcome.cached_tokens += usage.cached_prompt_tokens
        return text


def words(rng: random.Random, number: int) -> Iterator[str]:
    return (rng.choice(WORDS) for _ in range(number))


async def held(order: Order) -> Outcome:
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(Client(order.address, certificate_folder=folder))
            for folder in order.certificate_folders
        ]
        return await People(order, clients).run()


if __name__ == "__main__":
    outcome = uvloop.run(held(Order(**json.loads(sys.argv[1]))))
    print(json.dumps(asdict(outcome)))
