"""Callers that race for one budget, a process of its own: `python -m benchmarks.racing ORDER`.

So many at once over several gateways, each asking for another answer when it has one, or has been
refused, or has left midway. Says how they ended; what they cost is not theirs to know.
"""

import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import grpc
import uvloop

from evenflow.client import chat_request
from evenflow.connection import connection
from evenflow.errors import EvenflowError, FailedCall, Progress, error_of
from evenflow.inference.v1 import inference_service_pb2 as pb
from evenflow.inference.v1.inference_service_pb2_grpc import InferenceServiceStub

DEADLINE_S = 20.0
LEAVING_SHARE = 0.2
LEAVES_WITHIN_S = 2.0
TOKENS = (8, 64)
PROMPT_WORDS = (5, 200)
_AFTER_REFUSAL_S = (0.2, 1.0)
_CONNECTIONS = 4  # to each gateway


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    addresses: Sequence[str]
    server: str  # the name in the gateways' certificate
    certificate_folder: str
    at_once: int
    for_s: float
    seed: int = 1


class Race:
    def __init__(self, order: Order) -> None:
        self._order = order
        self._until_s = 0.0
        self._rng = random.Random(order.seed)  # noqa: S311 - a load must repeat
        self.ends: Counter[str] = Counter()

    async def run(self) -> None:
        order = self._order
        channels = [
            connection(address, order.certificate_folder, server_name=order.server).channel()
            for address in order.addresses
            for _ in range(_CONNECTIONS)
        ]
        stubs = [InferenceServiceStub(each) for each in channels]
        self._until_s = time.monotonic() + order.for_s
        async with asyncio.TaskGroup() as tasks:
            for at in range(order.at_once):
                tasks.create_task(self._work(stubs[at % len(stubs)]))
        for each in channels:
            await each.close(None)

    async def _work(self, stub: Any) -> None:
        await asyncio.sleep(self._rng.uniform(0, 1))
        while time.monotonic() < self._until_s:
            end = await self._asked(stub)
            self.ends[end] += 1
            if end not in ("answered", "left"):
                await asyncio.sleep(self._rng.uniform(*_AFTER_REFUSAL_S))

    async def _asked(self, stub: Any) -> str:
        rng = self._rng
        words = " ".join(f"word{rng.randrange(1000)}" for _ in range(rng.randint(*PROMPT_WORDS)))
        asked = chat_request(
            "simulated",
            words,
            sampling=pb.Sampling(max_output_tokens=rng.randint(*TOKENS), ignore_eos=True),
        )
        leaves_s = rng.uniform(0, LEAVES_WITHIN_S) if rng.random() < LEAVING_SHARE else DEADLINE_S
        try:
            async with asyncio.timeout(leaves_s):
                async for _ in stub.Generate(asked, timeout=DEADLINE_S):
                    pass
        except TimeoutError:
            return "left"
        except grpc.aio.AioRpcError as error:
            failed: EvenflowError = error_of(cast(FailedCall, error), Progress())
            return getattr(failed, "reason", "") or type(failed).__name__
        return "answered"


if __name__ == "__main__":
    race = Race(Order(**json.loads(sys.argv[1])))
    uvloop.run(race.run())
    print(json.dumps(race.ends))
