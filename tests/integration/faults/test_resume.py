"""Streams whose class asks for it are carried on when their runtime or Envoy dies under them.

Each answer of a stream that broke is compared, token by token, with the answer of one that did not.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from evenflow.client import Client, chat_request
from evenflow.connection import connection
from evenflow.errors import StreamLost
from evenflow.home import service_folder
from evenflow.inference.v1 import inference_service_pb2 as pb
from evenflow.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from evenflow.inference.v1.workload_class_pb2 import WORKLOAD_CLASS_BATCH
from services.chassis.identity import TlsFiles
from tests.fakes.runtime_mesh import refusal
from tests.integration.faults.operator import Operator, operator
from tests.integration.whole.mesh import Mesh, running
from tests.integration.whole.programs import Programs

STREAMS = 24
TOKENS = 60  # 2.4 s
APART_S = 0.07  # so that each stream is elsewhere when it breaks
DEADLINE_S = 20.0
READY_WITHIN_S = DEADLINE_S + 10  # a request that died with Envoy counts until its deadline
GREEDY = pb.Sampling(temperature=0, max_output_tokens=TOKENS, ignore_eos=True)
LOOK_EVERY_S = 0.02


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    environ = {"RUNTIME_MAX_RUNNING": "64", "RUNTIME_SIMULATED_STEP_S": "0.04"}
    with running(command="simulate", model="simulated", environ=environ) as started:
        asyncio.run(allowed(started))
        yield started


async def allowed(mesh: Mesh) -> None:
    """Lets policy say that interactive streams are carried on, and waits until it is known."""
    file = mesh.home / "tenants.yaml"
    file.write_text(file.read_text() + "\nclasses:\n  interactive:\n    resume: true\n")
    async with asyncio.timeout(READY_WITHIN_S), client(mesh) as made:
        request = chat_request(mesh.model, "hi", sampling=pb.Sampling(max_output_tokens=1))
        while not (await read(made, request)).resumable:  # noqa: ASYNC110 - it can only be asked
            await asyncio.sleep(LOOK_EVERY_S)


@dataclass(slots=True)
class Read:
    """What a reader got."""

    endpoint: str = ""
    request_id: str = ""
    resumable: bool = False
    starts: int = 0
    text: str = ""
    ids: list[int] = field(default_factory=list)
    tokens: int = 0
    usage: pb.Usage | None = None

    def took(self, event: object) -> None:
        if isinstance(event, pb.Started):
            self.endpoint, self.request_id = event.endpoint, event.request_id
            self.resumable, self.starts = event.resumable, self.starts + 1
        elif isinstance(event, pb.Delta):
            self.text += event.text
            self.ids += event.token_ids
            self.tokens += event.tokens
        elif isinstance(event, pb.Finished):
            self.usage = event.usage

    @property
    def answer(self) -> tuple[str, list[int], int, int, int]:
        assert self.usage is not None
        usage = self.usage
        return self.text, self.ids, self.tokens, usage.prompt_tokens, usage.output_tokens


def client(mesh: Mesh) -> Client:
    return Client(mesh.address, certificate_folder=mesh.tenant("acme"))


async def read(made: Client, request: pb.GenerateRequest, into: Read | None = None) -> Read:
    into = into or Read()
    async for event in made.generate(request, deadline_s=DEADLINE_S):
        into.took(event)
    return into


def questions(mesh: Mesh, streams: int = STREAMS) -> list[pb.GenerateRequest]:
    return [chat_request(mesh.model, f"question {n}", sampling=GREEDY) for n in range(streams)]


async def all_used(mesh: Mesh) -> None:
    """No circuit is open any more, from the fault before."""
    one = pb.Sampling(max_output_tokens=1)
    requests = [chat_request(mesh.model, "hi", sampling=one)] * 4
    async with asyncio.timeout(READY_WITHIN_S):
        while {each.endpoint for each in await answers(mesh, requests)} != set(mesh.runtimes):  # noqa: ASYNC110 - it can only be asked
            await asyncio.sleep(LOOK_EVERY_S)


@asynccontextmanager
async def all_ready(mesh: Mesh) -> AsyncIterator[Operator]:
    """Both runtimes serve, and have for so long that a death is no failed start."""
    await asyncio.to_thread(Programs(mesh.home).wait_until_settled)
    tls = TlsFiles.in_folder(service_folder(mesh.home, "operator"))
    async with operator(f"127.0.0.1:{mesh.ports('router')[0]}", tls) as asked:
        await asked.until_idle(within_s=READY_WITHIN_S)
        await all_used(mesh)
        yield asked


async def answers(mesh: Mesh, requests: Sequence[pb.GenerateRequest]) -> list[Read]:
    async with client(mesh) as made, asyncio.TaskGroup() as tasks:
        reading = [tasks.create_task(read(made, each)) for each in requests]
    return [each.result() for each in reading]


async def under_fire(mesh: Mesh, fault: signal.Signals) -> tuple[list[Read], list[int]]:
    """What readers got of streams under which a runtime went, and how much the broken ones had."""
    reads = [Read() for _ in range(STREAMS)]

    async def work(made: Client, at: int, request: pb.GenerateRequest) -> None:
        await asyncio.sleep(at * APART_S)
        await read(made, request, reads[at])

    async with all_ready(mesh), client(mesh) as made, asyncio.TaskGroup() as tasks:
        process = Programs(mesh.home).process("runtime-1")
        for at, request in enumerate(questions(mesh)):
            tasks.create_task(work(made, at, request))
        await asyncio.sleep(STREAMS * APART_S)
        broken = [
            each.tokens
            for each in reads
            if each.endpoint == mesh.runtimes[0] and 0 < each.tokens < TOKENS
        ]
        process.send_signal(fault)
    if fault is signal.SIGSTOP:
        process.resume()
    return reads, broken


@pytest.mark.parametrize(("fault", "rounds"), [(signal.SIGKILL, 2), (signal.SIGSTOP, 1)])
def test_no_token_is_lost_or_comes_twice_when_a_runtime_goes(
    mesh: Mesh, fault: signal.Signals, rounds: int
) -> None:
    async def scenario() -> set[int]:
        async with all_ready(mesh):
            unbroken = await answers(mesh, questions(mesh))
        cuts: set[int] = set()
        for _ in range(rounds):
            reads, broken = await under_fire(mesh, fault)
            assert len(broken) > STREAMS / 4
            cuts.update(broken)
            for got, wanted in zip(reads, unbroken, strict=True):
                assert got.answer == wanted.answer
                assert got.starts == 1
        return cuts

    assert len(asyncio.run(scenario())) > STREAMS / 4


def test_it_is_carried_on_when_envoy_is_back(mesh: Mesh) -> None:
    async def scenario() -> tuple[Read, Read]:
        (request,) = questions(mesh, 1)
        async with all_ready(mesh), client(mesh) as made:
            unbroken, got = await read(made, request), Read()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(read(made, request, got))
                while got.tokens < TOKENS // 3:  # noqa: ASYNC110 - it grows
                    await asyncio.sleep(LOOK_EVERY_S)
                Programs(mesh.home).kill("envoy")
        return unbroken, got

    unbroken, got = asyncio.run(scenario())

    assert got.answer == unbroken.answer
    assert got.starts == 1


async def stubbed(mesh: Mesh, request: pb.GenerateRequest) -> Read:
    """By raw stub, which carries nothing on by itself."""
    got = Read()
    async with connection(mesh.address, mesh.tenant("acme")).channel() as channel:
        stub: Any = InferenceServiceStub(channel)
        async for response in stub.Generate(request, timeout=DEADLINE_S):
            got.took(getattr(response, response.WhichOneof("event")))
    return got


def test_any_stub_can_carry_on_and_the_router_knows(mesh: Mesh) -> None:
    async def scenario() -> tuple[Read, Read]:
        (request,) = questions(mesh, 1)
        unbroken = await stubbed(mesh, request)
        request.resume.token_ids[:] = unbroken.ids[:20]
        return unbroken, await stubbed(mesh, request)

    unbroken, rest = asyncio.run(scenario())
    explained = mesh.explain(rest.request_id)

    assert unbroken.text.endswith(rest.text)
    assert unbroken.ids[:20] + rest.ids == unbroken.ids
    assert rest.usage is not None
    assert (rest.usage.prompt_tokens, rest.usage.output_tokens) == unbroken.answer[-2:]
    assert (explained.resumed_tokens, explained.max_output_tokens) == (20, TOKENS - 20)


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ({"workload_class": WORKLOAD_CLASS_BATCH}, grpc.StatusCode.PERMISSION_DENIED, "resume"),
        ({"resume": pb.Resume()}, grpc.StatusCode.INVALID_ARGUMENT, "resume.token_ids"),
        (
            {"resume": pb.Resume(token_ids=range(TOKENS + 1))},
            grpc.StatusCode.INVALID_ARGUMENT,
            "resume.token_ids",
        ),
        (
            {"resume": pb.Resume(token_ids=[2**31 - 1])},
            grpc.StatusCode.INVALID_ARGUMENT,
            "resume.token_ids",
        ),
    ],
)
def test_what_can_not_be_carried_on_is_refused_by_field(
    mesh: Mesh, change: dict[str, Any], code: grpc.StatusCode, field: str
) -> None:
    (request,) = questions(mesh, 1)
    request.resume.token_ids[:] = [1, 2, 3]
    request.MergeFrom(pb.GenerateRequest(**{k: v for k, v in change.items() if k != "resume"}))
    if "resume" in change:
        request.resume.CopyFrom(change["resume"])

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        asyncio.run(stubbed(mesh, request))

    refused = refusal(caught.value)
    assert (refused.code, refused.field) == (code, field)


def test_a_class_that_does_not_ask_for_it_is_told_no_tokens(mesh: Mesh) -> None:
    (request,) = questions(mesh, 1)
    request.workload_class = WORKLOAD_CLASS_BATCH

    got = asyncio.run(stubbed(mesh, request))

    assert (got.resumable, got.ids, got.tokens) == (False, [], TOKENS)


def test_and_its_streams_are_lost(mesh: Mesh) -> None:
    async def scenario() -> None:
        (request,) = questions(mesh, 1)
        request.workload_class = WORKLOAD_CLASS_BATCH
        got = Read()
        async with all_ready(mesh), client(mesh) as made, asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(read(made, request, got))
            while got.tokens < 5:  # noqa: ASYNC110 - it grows
                await asyncio.sleep(LOOK_EVERY_S)
            at = mesh.runtimes.index(got.endpoint)
            Programs(mesh.home).kill(f"runtime-{at + 1}")
        await reading

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(scenario())
    assert caught.group_contains(StreamLost)
