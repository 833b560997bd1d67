"""What was used is known to the token, also by a router that was not there when it began."""

import asyncio
from contextlib import suppress
from pathlib import Path

import grpc

from evenflow.client import Client, chat_request
from evenflow.inference.v1 import inference_service_pb2 as pb
from evenflow.router.v1 import router_service_pb2 as router_pb
from tests.integration.faults.small_mesh import READY_WITHIN_S, SmallMesh, small_mesh

LONG = pb.Sampling(max_output_tokens=2000, ignore_eos=True)
TOLD_WITHIN_S = 15.0
TOKENS = 10


async def until_told(mesh: SmallMesh, request_id: str) -> router_pb.ExplainResponse:
    async with asyncio.timeout(TOLD_WITHIN_S):
        while True:
            with suppress(grpc.aio.AioRpcError):  # a new router knows it by its end alone
                why = await mesh.asked.explain(request_id)
                if why.other_attempts and why.HasField("outcome"):
                    return why
            await asyncio.sleep(0.05)


def test_usage_of_a_stream_that_was_cut_off_is_true_and_counted_once(tmp_path: Path) -> None:
    async def run() -> None:
        async with small_mesh(tmp_path, runtimes=1) as mesh:
            (engine,) = mesh.engines.values()
            async with Client(mesh.address, certificate_folder=mesh.tenant) as client:
                stream = client.generate(chat_request("simulated", "hi", sampling=LONG))
                events = [await anext(stream) for _ in range(TOKENS)]
                await stream.aclose()
            started = events[0]
            assert isinstance(started, pb.Started)
            why = await until_told(mesh, started.request_id)
            (attempt,) = why.other_attempts
            made = engine.state().output_tokens
            assert made - 1 <= attempt.output_tokens <= made, "the step under way may not count"
            assert attempt.output_tokens >= TOKENS - 1
            assert why.outcome.grpc_code == grpc.StatusCode.CANCELLED.value[0]
            said = mesh.router.log.read_text()
            assert said.count("attempt.lost") == 1
            assert f'"output_tokens": {attempt.output_tokens}' in said

    asyncio.run(run())


def test_the_next_router_learns_it_of_a_stream_that_began_under_the_one_before(
    tmp_path: Path,
) -> None:
    async def run() -> None:
        async with small_mesh(tmp_path, runtimes=1) as mesh:
            async with Client(mesh.address, certificate_folder=mesh.tenant) as client:
                stream = client.generate(chat_request("simulated", "hi", sampling=LONG))
                started = await anext(stream)
                assert isinstance(started, pb.Started)
                mesh.router.kill()
                mesh.router.start()
                await mesh.asked.until_serving(within_s=READY_WITHIN_S)
                await until_envoy_reports(mesh, client)
                await stream.aclose()
                why = await until_told(mesh, started.request_id)
            assert why.other_attempts[0].output_tokens > 0
            assert mesh.router.log.read_text().count("attempt.lost") == 1

    asyncio.run(run())


async def until_envoy_reports(mesh: SmallMesh, client: Client) -> None:
    """To the router that is there now: what it reports meanwhile may be lost."""
    async with asyncio.timeout(TOLD_WITHIN_S):
        while True:
            short = pb.Sampling(max_output_tokens=1)
            asked = client.generate(chat_request("simulated", "hi", sampling=short))
            ids = [each.request_id async for each in asked if isinstance(each, pb.Started)]
            await asyncio.sleep(0.5)
            if (await mesh.asked.explain(ids[0])).HasField("outcome"):
                return
