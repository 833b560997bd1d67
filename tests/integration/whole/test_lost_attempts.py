"""What a caller who leaves has used is known all the same: explained, logged, and counted once."""

import asyncio

from prometheus_client.parser import text_string_to_metric_families

from evenflow.client import Client, chat_request
from evenflow.inference.v1 import inference_service_pb2 as pb
from evenflow.router.v1 import router_service_pb2 as router_pb
from evenflow.runtime.v1 import runtime_service_pb2 as runtime_pb
from tests.integration.whole.mesh import Mesh
from tests.integration.whole.programs import Programs, until

TENANT = "acme"
LONG = pb.Sampling(max_output_tokens=400, ignore_eos=True)
TOLD_WITHIN_S = 10.0


async def leave_after(mesh: Mesh, tokens: int) -> tuple[str, int]:
    """The request's id, and how many tokens had come."""
    received, request_id = 0, ""
    async with Client(mesh.address, certificate_folder=mesh.tenant(TENANT)) as client:
        stream = client.generate(chat_request(mesh.model, "hi there", sampling=LONG))
        async for event in stream:
            if isinstance(event, pb.Started):
                request_id = event.request_id
            if isinstance(event, pb.Delta):
                received += event.tokens
            if received >= tokens:
                break
        await stream.aclose()
    return request_id, received


def explained(mesh: Mesh, request_id: str) -> router_pb.ExplainResponse:
    until(lambda: bool(mesh.explain(request_id).other_attempts), within_s=TOLD_WITHIN_S)
    return mesh.explain(request_id)


def counted(mesh: Mesh) -> dict[str, int]:
    """By kind."""
    return {
        sample.labels["kind"]: int(sample.value)
        for family in text_string_to_metric_families(mesh.metrics())
        if family.name == "evenflow_lost_attempt_tokens"
        for sample in family.samples
        if sample.labels["tenant"] == TENANT and sample.name.endswith("_total")
    }


def test_what_a_caller_who_left_had_used_is_counted_once(simulated_mesh: Mesh) -> None:
    mesh = simulated_mesh
    before = counted(mesh).get("output", 0)

    request_id, received = asyncio.run(leave_after(mesh, 5))
    why = explained(mesh, request_id)

    (attempt,) = why.other_attempts
    assert (attempt.number, attempt.end) == (1, runtime_pb.ATTEMPT_END_MID_STREAM)
    assert attempt.endpoint in mesh.runtimes
    assert attempt.prompt_tokens > 0
    assert received <= attempt.output_tokens < LONG.max_output_tokens
    after = before + attempt.output_tokens
    until(lambda: counted(mesh).get("output", 0) >= after, within_s=TOLD_WITHIN_S)
    lines = (mesh.home / "logs" / "router.log").read_text().splitlines()
    assert len([each for each in lines if "attempt.lost" in each and request_id in each]) == 1


def test_a_runtime_that_was_started_again_is_heard_too(simulated_mesh: Mesh) -> None:
    mesh, programs = simulated_mesh, Programs(simulated_mesh.home)
    for name in ("runtime-1", "runtime-2"):
        programs.wait_until_settled()
        programs.kill(name)
        until(lambda: not mesh.is_ready())
        until(mesh.is_ready)

    request_id, received = asyncio.run(leave_after(mesh, 5))

    assert explained(mesh, request_id).other_attempts[0].output_tokens >= received
