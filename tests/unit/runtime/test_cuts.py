"""What runs for a revoked key or certificate ends at once, over real gRPC."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest

from evenflow.openai.v1 import chat_service_pb2 as chat_pb
from evenflow.runtime.v1 import runtime_service_pb2 as pb
from services.runtime.core.simulation import Behaviour
from services.runtime.outbound.simulated import SimulatedEngine
from tests.fakes.charging import charged, ends, journaling
from tests.fakes.runtime_mesh import Refusal, Runtime, asking, owner, refusal, running
from tests.unit.runtime.test_spending import completion, gathered

T = TypeVar("T")

PATIENCE_S = 10.0
ENDLESS = Behaviour(step_s=0.005, max_context_tokens=10_000, max_running=4)
READS_FOR_EVER = Behaviour(prefill_per_token_s=5.0, max_context_tokens=10_000)
LONG = asking(max_output_tokens=5000, ignore_eos=True)
KEY = pb.CUT_REASON_API_KEY_REVOKED
CERTIFICATE = pb.CUT_REASON_CERTIFICATE_REVOKED


def against(
    folder: Path, body: Callable[[Runtime], Awaitable[T]], behaviour: Behaviour = ENDLESS
) -> T:
    async def scenario() -> T:
        async with running(folder, SimulatedEngine(behaviour)) as runtime:
            return await body(runtime)

    return asyncio.run(scenario())


async def cut(runtime: Runtime, *ids: str, reason: pb.CutReason.ValueType = KEY) -> int:
    async with runtime.called_by("router") as stubs:
        request = pb.CutAttemptsRequest(request_ids=ids, reason=reason)
        response = await stubs.state.CutAttempts(request, timeout=PATIENCE_S)
    number: int = response.cut
    return number


async def until_active(runtime: Runtime, number: int = 1) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while runtime.serving.active < number:  # noqa: ASYNC110 - it can only be asked
            await asyncio.sleep(0.001)


async def over(call: Any) -> Refusal:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rest(call)
    return refusal(caught.value)


async def rest(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:  # type: ignore[attr-defined] # set at import
        pass


@pytest.mark.parametrize(
    ("reason", "said"), [(KEY, "KEY_REVOKED"), (CERTIFICATE, "CERTIFICATE_REVOKED")]
)
def test_a_stream_ends_with_the_reason_and_its_usage(
    tmp_path: Path, reason: pb.CutReason.ValueType, said: str
) -> None:
    async def body(runtime: Runtime) -> tuple[int, Refusal]:
        async with runtime.called_by("gateway") as stubs:
            call = stubs.inference.Generate(LONG, metadata=owner(), timeout=PATIENCE_S)
            for _ in range(4):
                await call.read()
            return await cut(runtime, "r-1", "unknown", reason=reason), await over(call)

    number, end = against(tmp_path, body)

    assert (number, end.code, end.reason) == (1, grpc.StatusCode.UNAUTHENTICATED, said)
    assert int(end.trailers["x-evenflow-output-tokens"]) >= 3


def test_before_the_first_token_too(tmp_path: Path) -> None:
    async def body(runtime: Runtime) -> tuple[int, Refusal]:
        async with runtime.called_by("gateway") as stubs:
            call = stubs.inference.Generate(LONG, metadata=owner(), timeout=PATIENCE_S)
            await until_active(runtime)
            return await cut(runtime, "r-1"), await over(call)

    number, end = against(tmp_path, body, READS_FOR_EVER)

    assert (number, end.reason) == (1, "KEY_REVOKED")


def test_every_attempt_at_the_request_and_no_other(tmp_path: Path) -> None:
    async def body(runtime: Runtime) -> tuple[list[int], list[str], int]:
        async with runtime.called_by("gateway") as stubs:
            ids = ("r-1", "r-1", "r-2")
            calls = [stubs.inference.Generate(LONG, metadata=owner(request_id=i)) for i in ids]
            for call in calls:
                await call.read()
            cuts = [await cut(runtime, "r-1", "r-1") for _ in range(2)]
            ended = [(await over(each)).reason for each in calls[:2]]
            active = runtime.serving.active
            await calls[2].read()
            calls[2].cancel()
            return cuts, ended, active

    cuts, ended, active = against(tmp_path, body)

    assert (ended, active) == (["KEY_REVOKED"] * 2, 1)
    assert cuts == [2, 0]


def test_openai_callers_are_told_in_their_stream(tmp_path: Path) -> None:
    async def body(runtime: Runtime) -> str:
        async with runtime.called_by("gateway") as stubs:
            request = chat_pb.StreamChatCompletionRequest(completion=completion())
            call = stubs.chat.StreamChatCompletion(request, metadata=owner())
            await call.initial_metadata()
            await cut(runtime, "r-1")
            said: list[chat_pb.StreamChatCompletionResponse] = []
            with pytest.raises(grpc.aio.AioRpcError):
                await gathered(call, said)
            text: str = said[-1].events.data.decode()
            return text

    assert '"code": "KEY_REVOKED"' in against(tmp_path, body)


def test_what_is_cut_is_charged_what_it_used(tmp_path: Path) -> None:
    async def scenario() -> tuple[int, int]:
        with journaling(tmp_path) as journal:
            async with (
                running(tmp_path, SimulatedEngine(ENDLESS), journal=journal) as runtime,
                runtime.called_by("gateway") as stubs,
            ):
                call = stubs.inference.Generate(LONG, metadata=charged())
                await call.read()
                await cut(runtime, "r-1")
                said = (await over(call)).trailers["x-evenflow-output-tokens"]
                return int(said), ends(journal)[0].output_tokens

    said, written = asyncio.run(scenario())

    assert said == written > 0


def test_a_reason_is_required(tmp_path: Path) -> None:
    async def body(runtime: Runtime) -> None:
        await cut(runtime, "r-1", reason=pb.CUT_REASON_UNSPECIFIED)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        against(tmp_path, body)

    said = refusal(caught.value)
    assert (said.reason, said.field) == ("FIELD_INVALID", "reason")


@pytest.mark.parametrize("caller", ["gateway", "operator", "policy"])
def test_only_routers_cut(tmp_path: Path, caller: str) -> None:
    async def body(runtime: Runtime) -> None:
        async with runtime.called_by(caller) as stubs:
            await stubs.state.CutAttempts(pb.CutAttemptsRequest(reason=KEY), timeout=5)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        against(tmp_path, body)

    assert refusal(caught.value).reason == "CALLER_NOT_ALLOWED"
