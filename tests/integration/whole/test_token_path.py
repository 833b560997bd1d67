"""No token passes through Python outside the runtime: Envoy asks the router once, reports once."""

import asyncio

from evenflow.client import Client, chat_request
from evenflow.inference.v1 import inference_service_pb2 as pb
from tests.integration.whole.mesh import Mesh


def traffic(mesh: Mesh, output_tokens: int) -> dict[str, int]:
    """What Envoy sent to the router's process for one stream."""
    before = mesh.envoy_counters()

    async def ask() -> int:
        sampling = pb.Sampling(max_output_tokens=output_tokens, ignore_eos=True)
        async with Client(mesh.address, certificate_folder=mesh.tenant("acme")) as client:
            request = chat_request(mesh.model, "hi", sampling=sampling)
            events = [event async for event in client.generate(request, deadline_s=60)]
        assert isinstance(events[-1], pb.Finished)
        return events[-1].usage.output_tokens

    assert asyncio.run(ask()) == output_tokens
    return mesh.envoy_counters_once(
        lambda after: after["logs_written"] > before["logs_written"], since=before
    )


ENVOY_THREADS = 2  # each sends its name and its abilities once, 60 KB, before its first log entry


def test_a_500_token_stream_costs_the_router_one_check_and_one_log_entry(
    simulated_mesh: Mesh,
) -> None:
    assert any(_costs_the_same(simulated_mesh) for _ in range(ENVOY_THREADS + 1))


def _costs_the_same(mesh: Mesh) -> bool:
    short, long = traffic(mesh, 5), traffic(mesh, 500)
    for seen in (short, long):
        assert seen["checks"] == 1
        assert seen["logs_written"] == 1
    # A token would take dozens of bytes; pings and counts of more digits take a few hundred in all.
    return long["bytes_to_router"] - short["bytes_to_router"] < 4 * 495
