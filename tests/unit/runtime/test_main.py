"""The runtime as its own process: start, serve, stop, and what is said about a wrong start."""

import asyncio
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest

from deploy.local.aside import free_port
from evenflow.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from evenflow.runtime.v1 import runtime_service_pb2 as pb
from evenflow.runtime.v1.runtime_service_pb2_grpc import RuntimeServiceStub
from services.chassis.environ import EX_CONFIG
from services.chassis.identity import channel
from services.runtime.config import Config, SimulatedConfig
from tests.config_table import documented, expected
from tests.fakes.runtime_mesh import asking, owner
from tests.identities import Identities
from tests.processes import service, serving

README = Path("services/runtime/README.md")


def environ(identities: Identities, port: int, **more: str) -> Mapping[str, str]:
    return {
        "RUNTIME_ENGINE": "simulated",
        "RUNTIME_LISTEN": f"127.0.0.1:{port}",
        "RUNTIME_TLS": str(identities.service("runtime").certificate.parent),
        "RUNTIME_MAX_CONTEXT_TOKENS": "10000",
        "RUNTIME_SIMULATED_STEP_S": "0.005",
        **more,
    }


def test_every_setting_is_documented() -> None:
    settings = expected(Config, "RUNTIME") | expected(SimulatedConfig, "RUNTIME_SIMULATED")

    assert documented(README) == settings


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"RUNTIME_ENGINE": "tensorrt"}, b"must be one of vllm, llamacpp, simulated"),
        ({"RUNTIME_ENGINE": "llamacpp"}, b"model_path must be there for llamacpp"),
        ({"RUNTIME_SIMULATED_KV_BLOCKS": "5"}, b"must hold"),
        ({"RUNTIME_LISTEN": "unix:/tmp/x.sock"}, b"listen must be host:port"),
    ],
    ids=["engine", "model", "blocks", "socket"],
)
def test_a_wrong_setting_ends_the_start(
    tmp_path: Path, changed: Mapping[str, str], said: bytes
) -> None:
    async def scenario() -> tuple[int | None, bytes]:
        variables = environ(Identities(tmp_path), 1, **changed)
        async with service("services.runtime", variables) as process:
            _, errors = await process.communicate()
            return process.returncode, errors

    code, errors = asyncio.run(scenario())

    assert code == EX_CONFIG
    assert said in errors


def test_a_model_that_cannot_be_read_ends_the_start(tmp_path: Path) -> None:
    weights = tmp_path / "broken.gguf"
    weights.write_bytes(b"no model")
    changed = {
        "RUNTIME_ENGINE": "llamacpp",
        "RUNTIME_MODEL": "broken",
        "RUNTIME_MODEL_VERSION": "1",
        "RUNTIME_MODEL_PATH": str(weights),
    }

    async def scenario() -> tuple[int | None, bytes]:
        variables = environ(Identities(tmp_path), free_port(), **changed)
        async with service("services.runtime", variables) as process:
            _, errors = await process.communicate()
            return process.returncode, errors

    code, errors = asyncio.run(scenario())

    assert code == 1
    assert b"llama.cpp can't load broken.gguf" in errors


async def watched(where: str, identities: Identities, draining: asyncio.Event) -> int:
    """How many states came until the runtime ended the stream."""
    async with channel(where, identities.service("router"), server="runtime") as calls:
        stub: Any = RuntimeServiceStub(calls)
        states = 0
        async for state in stub.WatchState(pb.WatchStateRequest(), timeout=20):
            states += 1
            if state.draining:
                draining.set()
        return states


async def generated(where: str, identities: Identities, begun: asyncio.Event) -> int:
    async with channel(where, identities.service("gateway"), server="runtime") as calls:
        stub: Any = InferenceServiceStub(calls)
        request = asking(max_output_tokens=150, ignore_eos=True)
        tokens = 0
        async for event in stub.Generate(request, metadata=owner(), timeout=20):
            begun.set()
            tokens += event.delta.tokens
        return tokens


def test_a_stop_lets_a_stream_end_and_tells_routers_first(tmp_path: Path) -> None:
    identities = Identities(tmp_path)
    port = free_port()
    where = f"127.0.0.1:{port}"

    async def scenario() -> tuple[int, int | None]:
        draining, begun = asyncio.Event(), asyncio.Event()
        async with service("services.runtime", environ(identities, port)) as process:
            await serving(where, identities.service("router"), server="runtime")
            async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
                tasks.create_task(watched(where, identities, draining))
                generating = tasks.create_task(generated(where, identities, begun))
                await begun.wait()
                process.send_signal(signal.SIGTERM)
                await draining.wait()
                assert not generating.done()
            return generating.result(), await process.wait()

    assert asyncio.run(scenario()) == (150, 0)


def test_plain_text_is_refused(tmp_path: Path) -> None:
    identities = Identities(tmp_path)
    port = free_port()
    where = f"127.0.0.1:{port}"

    async def scenario() -> grpc.StatusCode:
        async with service("services.runtime", environ(identities, port)):
            await serving(where, identities.service("router"), server="runtime")
            async with grpc.aio.insecure_channel(where) as calls:
                stub: Any = InferenceServiceStub(calls)
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await anext(aiter(stub.Generate(asking(), metadata=owner(), timeout=5)))
                code: grpc.StatusCode = caught.value.code()
                return code

    assert asyncio.run(scenario()) is grpc.StatusCode.UNAVAILABLE
