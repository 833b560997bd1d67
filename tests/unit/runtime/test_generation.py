"""Generate over real gRPC, on the simulated engine: what the gateway sees."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest

from evenflow.inference.v1 import inference_service_pb2 as pb
from services.runtime.core.engine import EngineState
from services.runtime.core.simulation import Behaviour
from services.runtime.outbound.simulated import SimulatedEngine
from tests.fakes.runtime_mesh import (
    Refusal,
    Runtime,
    Stubs,
    asking,
    owner,
    plain,
    refusal,
    running,
)

T = TypeVar("T")

QUICK = Behaviour(step_s=0.001, kv_blocks=64, max_context_tokens=1024, max_running=4)
SLOW_READER = Behaviour(prefill_per_token_s=0.5, kv_blocks=64, max_context_tokens=1024)
ENDLESS = Behaviour(step_s=0.01, kv_blocks=640, max_context_tokens=10_000)


def against(
    folder: Path,
    body: Callable[[Runtime, Stubs], Awaitable[T]],
    *,
    behaviour: Behaviour = QUICK,
    caller: str = "gateway",
) -> T:
    async def scenario() -> T:
        async with (
            running(folder, SimulatedEngine(behaviour)) as runtime,
            runtime.called_by(caller) as stubs,
        ):
            return await body(runtime, stubs)

    return asyncio.run(scenario())


def refused(
    folder: Path,
    request: pb.GenerateRequest,
    *,
    metadata: tuple[tuple[str, str], ...] | None = None,
    timeout_s: float = 5.0,
    behaviour: Behaviour = QUICK,
    caller: str = "gateway",
) -> Refusal:
    async def body(_: Runtime, stubs: Stubs) -> None:
        call = stubs.inference.Generate(
            request, metadata=owner() if metadata is None else metadata, timeout=timeout_s
        )
        async for _event in call:
            pass

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        against(folder, body, behaviour=behaviour, caller=caller)
    return refusal(caught.value)


async def until(engine: SimulatedEngine, condition: Callable[[EngineState], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition(engine.state()):  # noqa: ASYNC110 - state is for asking
            await asyncio.sleep(0.002)


def idle(state: EngineState) -> bool:
    return state.running == state.waiting == 0 and state.kv_blocks_free == state.kv_blocks_total


def test_a_stream_begins_with_started_and_ends_with_finished(tmp_path: Path) -> None:
    async def body(_: Runtime, stubs: Stubs) -> list[pb.GenerateResponse]:
        request = asking(max_output_tokens=5, ignore_eos=True)
        return [event async for event in stubs.inference.Generate(request, metadata=owner())]

    events = against(tmp_path, body)

    kinds = [event.WhichOneof("event") for event in events]
    assert kinds == ["started", *["delta"] * 5, "finished"]
    assert events[0].started == pb.Started(
        request_id="r-1",
        model="simulated",
        model_version="simulated",
        endpoint="127.0.0.1:9101",
        engine="simulated",
    )
    assert events[-1].finished.reason == pb.FINISH_REASON_LENGTH
    assert events[-1].finished.usage.output_tokens == 5
    assert events[-1].finished.usage.prompt_tokens > 0


def test_the_text_says_that_it_is_simulated(tmp_path: Path) -> None:
    async def body(_: Runtime, stubs: Stubs) -> str:
        call = stubs.inference.Generate(asking(), metadata=owner())
        return "".join([event.delta.text async for event in call])

    assert against(tmp_path, body).startswith("[simulated] No model wrote this.")


def test_trailers_hold_the_usage_of_an_answer(tmp_path: Path) -> None:
    async def body(_: Runtime, stubs: Stubs) -> dict[str, str]:
        call = stubs.inference.Generate(asking(max_output_tokens=3), metadata=owner())
        async for _event in call:
            pass
        return plain(await call.trailing_metadata())

    trailers = against(tmp_path, body)

    assert trailers["x-evenflow-output-tokens"] == "3"
    assert int(trailers["x-evenflow-prompt-tokens"]) > 0
    assert trailers["x-evenflow-cached-tokens"] == "0"
    assert trailers["x-evenflow-model-version"] == "simulated"
    assert trailers["x-evenflow-engine"] == "simulated"
    assert "x-evenflow-reason" not in trailers


def test_headers_wait_for_the_first_token(tmp_path: Path) -> None:
    async def body(runtime: Runtime, stubs: Stubs) -> bool:
        call = stubs.inference.Generate(asking(), metadata=owner(), timeout=1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await call.initial_metadata()
        return runtime.serving.engine.state().running == 1

    assert against(tmp_path, body, behaviour=SLOW_READER)


def test_a_deadline_before_the_first_token_is_kept(tmp_path: Path) -> None:
    end = refused(tmp_path, asking(), timeout_s=0.3, behaviour=SLOW_READER)

    assert (end.code, end.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE")
    assert end.trailers["x-evenflow-reason"] == "DEADLINE"


def test_a_deadline_in_mid_stream_ends_the_stream_with_its_usage(tmp_path: Path) -> None:
    request = asking(max_output_tokens=5000, ignore_eos=True)

    end = refused(tmp_path, request, timeout_s=0.4, behaviour=ENDLESS)

    assert (end.code, end.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE")
    assert int(end.trailers["x-evenflow-output-tokens"]) > 0


def test_a_deadline_frees_the_engine(tmp_path: Path) -> None:
    async def body(runtime: Runtime, stubs: Stubs) -> None:
        request = asking(max_output_tokens=5000, ignore_eos=True)
        with pytest.raises(grpc.aio.AioRpcError):
            async for _event in stubs.inference.Generate(request, metadata=owner(), timeout=0.3):
                pass
        assert idle(runtime.serving.engine.state())

    against(tmp_path, body, behaviour=ENDLESS)


@pytest.mark.parametrize("behaviour", [SLOW_READER, ENDLESS], ids=["first token", "mid-stream"])
def test_a_cancel_frees_the_engine(tmp_path: Path, behaviour: Behaviour) -> None:
    async def body(runtime: Runtime, stubs: Stubs) -> None:
        engine = runtime.serving.engine
        assert isinstance(engine, SimulatedEngine)
        request = asking(max_output_tokens=500, ignore_eos=True)
        call = stubs.inference.Generate(request, metadata=owner())
        if behaviour is ENDLESS:
            await anext(aiter(call))
        await until(engine, lambda state: state.running == 1)
        call.cancel()
        async with asyncio.timeout(0.25):
            await until(engine, idle)
        await runtime.serving.wait_until_idle()

    against(tmp_path, body, behaviour=behaviour)


@pytest.mark.parametrize(
    ("sampling", "field"),
    [
        ({"temperature": 2.1}, "sampling.temperature"),
        ({"temperature": float("nan")}, "sampling.temperature"),
        ({"top_p": 0.0}, "sampling.top_p"),
        ({"top_k": -1}, "sampling.top_k"),
        ({"seed": -1}, "sampling.seed"),
        ({"stop": [""]}, "sampling.stop"),
        ({"logprobs": 21}, "sampling.logprobs"),
        ({"json_schema": "no"}, "sampling.json_schema"),
        ({"json_schema": '{"type": "what"}'}, "sampling.json_schema"),
        ({"max_output_tokens": 0}, "sampling.max_output_tokens"),
    ],
)
def test_a_bad_sampling_value_is_refused_by_field(
    tmp_path: Path, sampling: dict[str, Any], field: str
) -> None:
    end = refused(tmp_path, asking(**sampling))

    assert (end.code, end.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")
    assert end.field == end.trailers["x-evenflow-field"] == field


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.GenerateRequest(model="simulated"), "input"),
        (pb.GenerateRequest(model="simulated", text=""), "text"),
        (pb.GenerateRequest(model="simulated", chat=pb.ChatInput()), "chat.messages"),
        (
            pb.GenerateRequest(
                model="simulated", chat=pb.ChatInput(messages=[pb.ChatMessage(content="hi")])
            ),
            "chat.messages[0].role",
        ),
        (pb.GenerateRequest(model="simulated", tokens=pb.TokenInput()), "tokens.ids"),
        (pb.GenerateRequest(model="simulated", tokens=pb.TokenInput(ids=[-5])), "tokens.ids"),
    ],
    ids=["none", "no text", "no messages", "no role", "no tokens", "no such token"],
)
def test_a_bad_prompt_is_refused_by_field(
    tmp_path: Path, request_: pb.GenerateRequest, field: str
) -> None:
    end = refused(tmp_path, request_)

    assert (end.reason, end.field) == ("FIELD_INVALID", field)


def test_another_model_is_not_found(tmp_path: Path) -> None:
    end = refused(tmp_path, pb.GenerateRequest(model="gpt-9", text="hi"))

    assert (end.code, end.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
    assert end.trailers["x-evenflow-field"] == "model"


def test_a_prompt_that_leaves_no_room_is_refused(tmp_path: Path) -> None:
    end = refused(tmp_path, asking("word " * 2000))

    assert (end.code, end.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "CONTEXT_TOO_LONG")
    assert end.field == "text"


@pytest.mark.parametrize(
    ("limit", "reason"),
    [("max_output_tokens", "OUTPUT_LIMIT"), ("max_context_tokens", "CONTEXT_LIMIT")],
)
def test_the_tenants_limits_hold_by_true_counts(tmp_path: Path, limit: str, reason: str) -> None:
    end = refused(tmp_path, asking(max_output_tokens=11), metadata=owner(**{limit: "10"}))

    assert (end.code, end.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, reason)


def test_output_that_nobody_asked_for_is_cut_to_the_tenants_limit(tmp_path: Path) -> None:
    async def body(_: Runtime, stubs: Stubs) -> int:
        call = stubs.inference.Generate(
            asking(ignore_eos=True), metadata=owner(max_output_tokens="7")
        )
        return sum([event.delta.tokens async for event in call])

    assert against(tmp_path, body) == 7


@pytest.mark.parametrize("key", ["tenant", "request_id", "cache_salt", "priority", "workload"])
def test_a_request_without_an_owner_is_refused(tmp_path: Path, key: str) -> None:
    end = refused(tmp_path, asking(), metadata=owner(**{key: ""}))

    assert (end.code, end.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")
    assert end.field == f"x-evenflow-{key.replace('_', '-')}"


@pytest.mark.parametrize("caller", ["router", "policy", "operator"])
def test_only_the_gateway_may_generate(tmp_path: Path, caller: str) -> None:
    end = refused(tmp_path, asking(), caller=caller)

    assert (end.code, end.reason) == (grpc.StatusCode.PERMISSION_DENIED, "CALLER_NOT_ALLOWED")


def test_a_request_that_the_engine_loses_can_be_tried_elsewhere(tmp_path: Path) -> None:
    behaviour = Behaviour(step_s=0.001, lost_share=1.0)

    end = refused(tmp_path, asking(max_output_tokens=1), behaviour=behaviour)

    assert (end.code, end.reason) == (grpc.StatusCode.UNAVAILABLE, "ENGINE_FAILED")


def test_a_refusal_has_no_headers_of_its_own(tmp_path: Path) -> None:
    """Trailers only: Envoy may still retry, or turn it into JSON."""

    async def body(_: Runtime, stubs: Stubs) -> tuple[object, ...]:
        call = stubs.inference.Generate(asking(top_p=7.0), metadata=owner())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await anext(aiter(call))
        return tuple(caught.value.initial_metadata() or ())

    assert against(tmp_path, body) == ()


def test_tokens_are_counted_as_they_are_made(tmp_path: Path) -> None:
    async def body(_: Runtime, stubs: Stubs) -> tuple[int, int]:
        chat = pb.ChatInput(messages=[pb.ChatMessage(role=pb.ROLE_USER, content="Hello there")])
        ids = await stubs.inference.Tokenize(
            pb.TokenizeRequest(model="simulated", chat=chat), metadata=owner()
        )
        count = await stubs.inference.CountTokens(
            pb.CountTokensRequest(model="simulated", chat=chat), metadata=owner()
        )
        return len(ids.ids), count.tokens

    tokenized, counted = against(tmp_path, body)

    assert tokenized == counted > 0


@pytest.mark.parametrize("attempt", ["1", "2"])
def test_an_arm_after_the_first_says_which_it_is_with_its_first_token(
    tmp_path: Path, attempt: str
) -> None:
    async def body(_: Runtime, stubs: Stubs) -> tuple[dict[str, str], dict[str, str]]:
        metadata = (*owner(), ("x-envoy-attempt-count", attempt))
        call = stubs.inference.Generate(asking(max_output_tokens=3), metadata=metadata, timeout=5)
        headers = plain(await call.initial_metadata())
        async for _event in call:
            pass
        return headers, plain(await call.trailing_metadata())

    headers, trailers = against(tmp_path, body)

    said = None if attempt == "1" else attempt
    assert headers.get("x-evenflow-attempt") == trailers.get("x-evenflow-attempt") == said
