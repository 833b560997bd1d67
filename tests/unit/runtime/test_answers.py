"""Whole answers, handed over to the router that asked for them, over real gRPC."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest

from evenflow.inference.v1 import inference_service_pb2 as pb
from evenflow.openai.v1 import chat_service_pb2 as openai_pb
from evenflow.runtime.v1 import runtime_service_pb2 as runtime_pb
from services.runtime.core.limits import TenantLimits
from services.runtime.core.simulation import Behaviour
from services.runtime.inbound.owners import Owner
from services.runtime.outbound.simulated import SimulatedEngine
from tests.fakes.runtime_mesh import Runtime, Stubs, asking, owner, running

T = TypeVar("T")

QUICK = Behaviour(step_s=0.001, kv_blocks=640, max_context_tokens=10_000, max_running=4)
LOSING = Behaviour(step_s=0.001, kv_blocks=64, max_context_tokens=1024, lost_share=1.0)
WITHIN_S = 5.0


class Meshed:
    """A gateway and a router, `watching` for answers."""

    def __init__(self, runtime: Runtime, gateway: Stubs, router: Stubs) -> None:
        self.runtime = runtime
        self.gateway = gateway
        self._router = router

    @asynccontextmanager
    async def watching(self, name: str = "router-1") -> AsyncIterator[AsyncIterator[Any]]:
        call = self._router.state.WatchAnswers(runtime_pb.WatchAnswersRequest(router=name))
        async with asyncio.timeout(WITHIN_S):
            while name not in self.runtime.serving.answers._watching:  # noqa: SLF001, ASYNC110 - gRPC does not say when a stream is served
                await asyncio.sleep(0.002)
        try:
            yield _each(call)
        finally:
            call.cancel()

    async def generate(self, request: pb.GenerateRequest, **said: str) -> list[pb.GenerateResponse]:
        call = self.gateway.inference.Generate(request, metadata=owner(**said))
        return [event async for event in call]


async def _each(call: Any) -> AsyncIterator[runtime_pb.Answer]:
    async for response in call:
        for each in response.answers:
            yield each


def meshed(folder: Path, body: Callable[[Meshed], Awaitable[T]], behaviour: Behaviour = QUICK) -> T:
    async def scenario() -> T:
        async with (
            asyncio.timeout(WITHIN_S),
            running(folder, SimulatedEngine(behaviour)) as runtime,
            runtime.called_by("gateway") as gateway,
            runtime.called_by("router") as router,
        ):
            return await body(Meshed(runtime, gateway, router))

    return asyncio.run(scenario())


def greedy(text: str = "Tell me.", tokens: int = 5, **sampling: Any) -> pb.GenerateRequest:
    return asking(text, temperature=0, max_output_tokens=tokens, ignore_eos=True, **sampling)


def chat(**fields: Any) -> openai_pb.ChatCompletion:
    made = openai_pb.ChatCompletion(
        model="simulated", temperature=0, max_tokens=5, ignore_eos=True, **fields
    )
    made.messages.add(role="user").content.string_value = "Tell me."
    return made


def test_generate_hands_over_what_it_said_in_one_piece(tmp_path: Path) -> None:
    async def body(mesh: Meshed) -> tuple[list[pb.GenerateResponse], runtime_pb.Answer]:
        async with mesh.watching() as answers:
            said = await mesh.generate(greedy(), cache_key="router-1.k1")
            return said, await anext(aiter(answers))

    said, answer = meshed(tmp_path, body)

    started, delta, finished = map(pb.GenerateResponse.FromString, answer.messages)
    said[0].started.request_id = ""
    assert started == said[0]
    assert delta.delta.text == "".join(each.delta.text for each in said)
    assert delta.delta.tokens == 5
    assert finished == said[-1]
    assert answer.key == "k1"
    assert answer.usage == finished.finished.usage
    assert answer.model_version == "simulated"


def test_openais_stream_hands_over_events_without_a_name(tmp_path: Path) -> None:
    request = openai_pb.StreamChatCompletionRequest(completion=chat())
    request.completion.stream_options.include_usage = True

    async def body(mesh: Meshed) -> tuple[list[Any], runtime_pb.Answer]:
        async with mesh.watching() as answers:
            metadata = owner(cache_key="router-1.k1")
            call = mesh.gateway.chat.StreamChatCompletion(request, metadata=metadata)
            return [each async for each in call], await anext(aiter(answers))

    said, answer = meshed(tmp_path, body)

    kept = map(openai_pb.StreamChatCompletionResponse.FromString, answer.messages)
    texts = [each.events.data.decode() for each in kept]
    assert all(each.startswith('data: {"id":"","object"') for each in texts[:-1])
    assert texts[-1] == "data: [DONE]\n\n"
    chunk, usage = (json.loads(each.removeprefix("data: ")) for each in texts[:-1])
    assert (chunk["id"], chunk["created"]) == ("", 0)
    deltas = [json.loads(each.events.data[6:])["choices"] for each in said[:5]]
    whole = "".join(each[0]["delta"]["content"] for each in deltas)
    assert chunk["choices"][0]["delta"] == {"role": "assistant", "content": whole}
    assert chunk["choices"][0]["finish_reason"] == "length"
    assert usage["usage"]["completion_tokens"] == 5


def test_openais_answer_in_one_piece_is_handed_over_without_a_name(tmp_path: Path) -> None:
    request = openai_pb.CreateChatCompletionRequest(completion=chat())

    async def body(mesh: Meshed) -> tuple[Any, runtime_pb.Answer]:
        async with mesh.watching() as answers:
            metadata = owner(cache_key="router-1.k1")
            said = await mesh.gateway.chat.CreateChatCompletion(request, metadata=metadata)
            return said, await anext(aiter(answers))

    said, answer = meshed(tmp_path, body)

    kept = openai_pb.CreateChatCompletionResponse.FromString(answer.messages[0])
    said.id, said.created = "", 0
    assert kept == said


def test_only_what_was_asked_for_and_ended_well_is_handed_over(tmp_path: Path) -> None:
    async def body(mesh: Meshed) -> runtime_pb.Answer:
        async with mesh.watching() as answers:
            await mesh.generate(greedy("Nobody wants it."))
            await mesh.generate(greedy("Another router does."), cache_key="router-2.k2")
            cut = mesh.gateway.inference.Generate(
                greedy("It is cancelled.", tokens=5000), metadata=owner(cache_key="router-1.k3")
            )
            await anext(aiter(cut))
            cut.cancel()
            await mesh.runtime.serving.wait_until_idle()
            large = greedy("It is too large.", 200, logprobs=20)
            await mesh.generate(large, cache_key="router-1.k4")
            await mesh.generate(greedy("This one."), cache_key="router-1.k5")
            return await anext(aiter(answers))

    assert meshed(tmp_path, body).key == "k5"


def test_an_answer_that_broke_is_not_handed_over(tmp_path: Path) -> None:
    async def body(mesh: Meshed) -> int:
        async with mesh.watching():
            with pytest.raises(grpc.aio.AioRpcError):
                await mesh.generate(greedy(), cache_key="router-1.k1")
            watch = mesh.runtime.serving.answers._watching["router-1"]  # noqa: SLF001 - nothing comes, ever
            return len(watch._waiting)  # noqa: SLF001 - likewise

    assert meshed(tmp_path, body, LOSING) == 0


def test_each_router_gets_its_own(tmp_path: Path) -> None:
    async def body(mesh: Meshed) -> list[str]:
        async with mesh.watching("router-1") as one, mesh.watching("router-2") as two:
            await mesh.generate(greedy(), cache_key="router-2.k2")
            await mesh.generate(greedy(), cache_key="router-1.k1")
            return [(await anext(aiter(each))).key for each in (one, two)]

    assert meshed(tmp_path, body) == ["k1", "k2"]


def test_what_a_router_does_not_take_is_bounded(tmp_path: Path) -> None:
    async def body(mesh: Meshed) -> int:
        answers = mesh.runtime.serving.answers
        watch = answers.watch("router-1")
        async with asyncio.TaskGroup() as tasks:
            first = tasks.create_task(anext(watch))
            await asyncio.sleep(0)
            waiting = answers._watching["router-1"]  # noqa: SLF001 - memory is what this is about
            for _ in range(100):
                waiting.put(runtime_pb.Answer(key="k", messages=[bytes(200_000)]))
            held = waiting._bytes  # noqa: SLF001 - likewise
            assert (await first).ByteSize() <= 2 << 20
        await watch.aclose()
        return held

    assert meshed(tmp_path, body) <= 8 << 20


def test_an_answer_is_measured_as_it_is_sent(tmp_path: Path) -> None:
    """Characters of four bytes each, say, of which the gatherer does not know."""

    async def body(mesh: Meshed) -> str:
        async with mesh.watching() as answers:
            report = mesh.runtime.serving.report(_owner("router-1.k1"))
            large = pb.GenerateResponse(delta=pb.Delta(text="\N{OWL}" * 70_000))
            mesh.runtime.serving.answers.offer(report, [large])
            await mesh.generate(greedy(), cache_key="router-1.k2")
            key: str = (await anext(aiter(answers))).key
            return key

    assert meshed(tmp_path, body) == "k2"


def _owner(cache_key: str) -> Owner:
    limits = TenantLimits(context_tokens=0, output_tokens=0)
    return Owner("r-1", "acme", "web", "batch", 0, "5a17", limits, cache_key)


def test_it_ends_with_the_runtime(tmp_path: Path) -> None:
    async def body(mesh: Meshed) -> list[Any]:
        async with mesh.watching() as answers:
            mesh.runtime.states.stop()
            return [each async for each in answers]

    assert meshed(tmp_path, body) == []


@pytest.mark.parametrize("caller", ["gateway", "operator", "policy"])
def test_only_routers_may_watch(tmp_path: Path, caller: str) -> None:
    async def scenario() -> grpc.StatusCode:
        async with (
            running(tmp_path, SimulatedEngine(QUICK)) as runtime,
            runtime.called_by(caller) as stubs,
        ):
            call = stubs.state.WatchAnswers(runtime_pb.WatchAnswersRequest(router="router-1"))
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await anext(aiter(call))
            return refused.value.code()

    assert asyncio.run(scenario()) is grpc.StatusCode.PERMISSION_DENIED
