"""Both clients over real mTLS, against a server whose answers are written down."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import grpc
import pytest
from opentelemetry.sdk.trace import TracerProvider

from evenflow.blocking import BlockingClient
from evenflow.client import Client, chat_request
from evenflow.errors import DeadlineExceeded, EvenflowError, Refused, StreamLost, Unreachable
from evenflow.inference.v1 import inference_service_pb2 as pb
from evenflow.requests import Event
from tests.unit.client.scripted_mesh import (
    FINISHED,
    MODEL,
    STARTED,
    Script,
    ScriptedMesh,
    breaks,
    refuses,
    scripted_mesh,
    waits,
)

REQUEST = chat_request(MODEL, "Hello?")
Generate = Callable[[ScriptedMesh], list[Event]]


def generate_async(mesh: ScriptedMesh) -> list[Event]:
    async def scenario() -> list[Event]:
        async with Client(mesh.address, certificate_folder=mesh.certificates) as client:
            return [event async for event in client.generate(REQUEST, deadline_s=5)]

    return asyncio.run(scenario())


def generate_blocking(mesh: ScriptedMesh) -> list[Event]:
    with BlockingClient(mesh.address, certificate_folder=mesh.certificates) as client:
        return list(client.generate(REQUEST, deadline_s=5))


both = pytest.mark.parametrize("generate", [generate_async, generate_blocking])


@both
def test_an_answer_comes_as_the_contract_s_events(generate: Generate, tmp_path: Path) -> None:
    script = Script()

    with scripted_mesh(script, tmp_path) as mesh:
        events = generate(mesh)

    deltas = [pb.Delta(text="Hello", tokens=1), pb.Delta(text=" there", tokens=1)]
    assert events == [STARTED, *deltas, FINISHED]
    assert script.requests == [REQUEST]


@both
def test_a_refusal_is_typed(generate: Generate, tmp_path: Path) -> None:
    refusal = refuses(grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", "no runtime serves it")

    with (
        scripted_mesh(Script(before=refusal), tmp_path) as mesh,
        pytest.raises(Refused, match="MODEL_NOT_FOUND: no runtime serves it"),
    ):
        generate(mesh)


@both
def test_a_reset_in_mid_stream_brings_what_had_arrived(generate: Generate, tmp_path: Path) -> None:
    reset = breaks(grpc.StatusCode.INTERNAL, "RST_STREAM with error code 2")

    with scripted_mesh(Script(after=reset), tmp_path) as mesh, pytest.raises(StreamLost) as caught:
        generate(mesh)

    assert (caught.value.text, caught.value.tokens) == ("Hello there", 2)


def test_the_deadline_is_the_caller_s(tmp_path: Path) -> None:
    script = Script()
    script.after = waits(script)

    async def scenario(mesh: ScriptedMesh) -> None:
        async with Client(mesh.address, certificate_folder=mesh.certificates) as client:
            async for _ in client.generate(REQUEST, deadline_s=0.5):
                pass

    with scripted_mesh(script, tmp_path) as mesh, pytest.raises(DeadlineExceeded) as caught:
        asyncio.run(scenario(mesh))

    assert caught.value.text == "Hello there"


def test_leaving_early_cancels_the_request(tmp_path: Path) -> None:
    script = Script()
    script.after = waits(script)

    async def scenario(mesh: ScriptedMesh) -> bool:
        async with Client(mesh.address, certificate_folder=mesh.certificates) as client:
            async with aclosing(client.generate(REQUEST, deadline_s=60)) as events:
                await anext(events)
            return await asyncio.to_thread(script.ended.wait, 5)

    with scripted_mesh(script, tmp_path) as mesh:
        assert asyncio.run(scenario(mesh))


def test_the_caller_s_trace_goes_along(tmp_path: Path) -> None:
    script = Script()
    tracer = TracerProvider().get_tracer("test")

    with scripted_mesh(script, tmp_path) as mesh, tracer.start_as_current_span("ask") as span:
        generate_async(mesh)

    trace_id = f"{span.get_span_context().trace_id:032x}"
    assert script.metadata[0]["traceparent"].split("-")[1] == trace_id


def test_chat_is_the_whole_text(tmp_path: Path) -> None:
    async def scenario(mesh: ScriptedMesh) -> str:
        async with Client(mesh.address, certificate_folder=mesh.certificates) as client:
            return await client.chat(MODEL, "Hello?")

    with scripted_mesh(Script(), tmp_path) as mesh:
        assert asyncio.run(scenario(mesh)) == "Hello there"
        with BlockingClient(mesh.address, certificate_folder=mesh.certificates) as client:
            assert client.chat(MODEL, "Hello?") == "Hello there"


def test_models_and_tokens_are_plain_values(tmp_path: Path) -> None:
    async def scenario(mesh: ScriptedMesh) -> tuple[list[str], int, list[int]]:
        async with Client(mesh.address, certificate_folder=mesh.certificates) as client:
            models = await client.list_models()
            count = await client.count_tokens(pb.CountTokensRequest(model=MODEL, text="one two"))
            ids = await client.tokenize(pb.TokenizeRequest(model=MODEL, text="one two"))
            return [model.name for model in models], count, list(ids)

    with scripted_mesh(Script(), tmp_path) as mesh:
        assert asyncio.run(scenario(mesh)) == ([MODEL], 2, [0, 1])


def test_a_server_that_is_not_the_gateway_is_not_talked_to(tmp_path: Path) -> None:
    script = Script()

    with scripted_mesh(script, tmp_path, service="runtime") as mesh, pytest.raises(Unreachable):
        generate_async(mesh)
    assert script.requests == []


def test_nobody_there_is_unreachable(tmp_path: Path) -> None:
    with scripted_mesh(Script(), tmp_path) as mesh:
        pass

    with pytest.raises(EvenflowError) as caught:
        generate_blocking(mesh)
    assert isinstance(caught.value, Unreachable)
