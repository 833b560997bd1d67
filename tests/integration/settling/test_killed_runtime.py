"""A runtime's process is killed under streams, policy away or not: the books agree afterwards."""

import asyncio
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from deploy.local.aside import free_port
from evenflow.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from services.chassis.identity import channel
from tests.fakes.charging import charge, charged
from tests.fakes.ledger import Books, Ledger, listening
from tests.fakes.runtime_mesh import asking, refusal
from tests.identities import Identities
from tests.processes import service, serving

RESERVED = 4000
WITHIN_S = 60


@dataclass(frozen=True, slots=True)
class Place:
    """Where a runtime and its policy live, whichever process each of them is."""

    identities: Identities
    folder: Path
    runtime_port: int
    policy_port: int

    @classmethod
    def made(cls, folder: Path) -> "Place":
        return cls(Identities(folder), folder, free_port(), free_port())

    def environ(self) -> Mapping[str, str]:
        return {
            "RUNTIME_ENGINE": "simulated",
            "RUNTIME_LISTEN": f"127.0.0.1:{self.runtime_port}",
            "RUNTIME_TLS": str(self.identities.service("runtime").certificate.parent),
            "RUNTIME_MAX_CONTEXT_TOKENS": "10000",
            "RUNTIME_SIMULATED_STEP_S": "0.01",
            "RUNTIME_POLICY": f"127.0.0.1:{self.policy_port}",
            "RUNTIME_JOURNAL": str(self.folder / "journals" / "runtime.db"),
        }

    @asynccontextmanager
    async def policy(self, books: Books) -> AsyncIterator[Ledger]:
        ledger, tls = Ledger(books), self.identities.service("policy")
        async with listening(ledger, tls, port=self.policy_port):
            yield ledger

    @asynccontextmanager
    async def runtime(self) -> AsyncIterator["Process"]:
        async with service("services.runtime", self.environ()) as process:
            where = f"127.0.0.1:{self.runtime_port}"
            await serving(where, self.identities.service("router"), server="runtime")
            gateway = self.identities.service("gateway")
            async with channel(where, gateway, server="runtime") as calls:
                yield Process(process, InferenceServiceStub(calls))


@dataclass(frozen=True, slots=True)
class Process:
    process: asyncio.subprocess.Process
    stub: Any

    def asked(self, reservation: str, *, tokens: int = 3000, reserved: int = RESERVED) -> Any:
        metadata = charged(charge(reserved=reserved), reservation=reservation)
        request = asking(max_output_tokens=tokens, ignore_eos=True)
        return self.stub.Generate(request, metadata=metadata, timeout=WITHIN_S)

    async def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()


async def read(call: Any, messages: int) -> None:
    for _ in range(messages):
        await call.read()


async def whole(call: Any) -> int:
    """Its output tokens."""
    return sum([event.delta.tokens async for event in call])


async def reason(call: Any) -> str:
    try:
        await whole(call)
    except grpc.aio.AioRpcError as error:
        return refusal(error).reason
    return ""


def test_what_was_under_way_counts_as_all_that_was_set_aside(tmp_path: Path) -> None:
    place, books = Place.made(tmp_path), Books()

    async def scenario() -> int:
        async with asyncio.timeout(WITHIN_S), place.policy(books):
            async with place.runtime() as runtime:
                await books.until(lambda told: bool(told.told_until))
                written = await whole(runtime.asked("r.1", tokens=20))
                await read(runtime.asked("r.2"), 5)
                await runtime.kill()
            async with place.runtime():
                await books.of(2)
        return written

    written = asyncio.run(scenario())

    first, second = books.attempts["r.1", 1], books.attempts["r.2", 1]
    assert (first.output_tokens, first.presumed) == (written, False)
    assert (second.charges[0].units, second.presumed) == (RESERVED, True)
    assert (len(books.sequences), books.gaps) == (1, [])


def test_what_ended_while_policy_was_away_is_told_by_the_next_process(tmp_path: Path) -> None:
    place, books = Place.made(tmp_path), Books()

    async def scenario() -> int:
        async with asyncio.timeout(WITHIN_S):
            async with place.runtime() as runtime:
                async with place.policy(books):
                    await books.until(lambda told: bool(told.told_until))
                written = await whole(runtime.asked("r.1", tokens=20))
                cut = runtime.asked("r.2")
                await read(cut, 5)
                cut.cancel()
                written += await whole(runtime.asked("r.3", tokens=7))
                await runtime.kill()
            async with place.policy(books), place.runtime():
                await books.of(3)
        return written

    written = asyncio.run(scenario())

    ended = {reservation: each for (reservation, _), each in books.attempts.items()}
    assert ended["r.1"].output_tokens + ended["r.3"].output_tokens == written
    assert 4 <= ended["r.2"].output_tokens < 3000
    assert not any(each.presumed for each in ended.values())


def test_a_runtime_that_policy_never_heard_of_takes_no_hard_budget(tmp_path: Path) -> None:
    place, books = Place.made(tmp_path), Books()

    async def scenario() -> tuple[str, int]:
        async with asyncio.timeout(WITHIN_S), place.runtime() as runtime:
            before = await reason(runtime.asked("r.1"))
            async with place.policy(books):
                await books.until(lambda told: bool(told.told_until))
                return before, await whole(runtime.asked("r.1", tokens=5))

    assert asyncio.run(scenario()) == ("LEDGER_UNREACHABLE", 5)


def test_a_runtime_that_is_told_to_stop_tells_all_first(tmp_path: Path) -> None:
    place, books = Place.made(tmp_path), Books()

    async def scenario() -> tuple[int, int | None]:
        async with asyncio.timeout(WITHIN_S), place.policy(books), place.runtime() as runtime:
            await books.until(lambda told: bool(told.told_until))
            call = runtime.asked("r.1", tokens=100)
            await read(call, 5)
            runtime.process.send_signal(signal.SIGTERM)
            await runtime.process.wait()
            return len(books.attempts), runtime.process.returncode

    assert asyncio.run(scenario()) == (1, 0)
