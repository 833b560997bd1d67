"""Conversations stay where their beginning is cached, through the real Envoy."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from evenflow.client import Client
from evenflow.inference.v1 import inference_service_pb2 as pb
from tests.integration.whole.mesh import Mesh
from tests.integration.whole.programs import until

SYSTEM = "You answer questions about streams and rivers. " * 40
TEMPLATE_TOKENS = 8


@dataclass(frozen=True)
class Turn:
    request_id: str
    endpoint: str
    text: str
    usage: pb.Usage


async def turn(mesh: Mesh, tenant: str, messages: Sequence[pb.ChatMessage]) -> Turn:
    request = pb.GenerateRequest(model=mesh.model, chat=pb.ChatInput(messages=messages))
    request.sampling.max_output_tokens = 8
    async with Client(mesh.address, certificate_folder=mesh.tenant(tenant)) as client:
        events = [event async for event in client.generate(request, deadline_s=60)]
    first, last = events[0], events[-1]
    assert isinstance(first, pb.Started)
    assert isinstance(last, pb.Finished)
    text = "".join(event.text for event in events if isinstance(event, pb.Delta))
    made = Turn(first.request_id, first.endpoint, text, last.usage)
    # The next pick is to see a mesh without load.
    await asyncio.to_thread(until, lambda: mesh.explain(made.request_id).HasField("outcome"))
    return made


def says(role: pb.Role.ValueType, content: str) -> pb.ChatMessage:
    return pb.ChatMessage(role=role, content=content)


def conversation(mesh: Mesh, name: str, tenant: str = "acme", turns: int = 3) -> list[Turn]:
    async def run() -> list[Turn]:
        messages = [says(pb.ROLE_SYSTEM, f"{name}: {SYSTEM}")]
        made = []
        for number in range(turns):
            messages.append(says(pb.ROLE_USER, f"Question {number}: which way does it flow?"))
            made.append(await turn(mesh, tenant, messages))
            messages.append(says(pb.ROLE_ASSISTANT, made[-1].text))
        return made

    return asyncio.run(run())


def test_every_turn_goes_to_the_runtime_of_the_first(simulated_mesh: Mesh) -> None:
    first, *later = conversation(simulated_mesh, "affinity")

    assert {each.endpoint for each in later} == {first.endpoint}
    assert first.usage.cached_prompt_tokens == 0
    for each in later:
        assert each.usage.cached_prompt_tokens > 0.7 * first.usage.prompt_tokens
        best = simulated_mesh.explain(each.request_id).candidates[0]
        assert best.address == first.endpoint
        assert best.expected_cached_tokens > 0.7 * first.usage.prompt_tokens


def test_a_real_engine_finds_the_turn_before_in_its_cache(real_mesh: Mesh) -> None:
    first, second = conversation(real_mesh, "a real one", turns=2)

    assert second.endpoint == first.endpoint
    assert second.usage.cached_prompt_tokens > 0.7 * first.usage.prompt_tokens


def test_equal_words_of_another_tenant_attract_nothing(real_mesh: Mesh) -> None:
    ours = conversation(real_mesh, "of a tenant", turns=1)
    theirs = conversation(real_mesh, "of a tenant", tenant="globex", turns=1)

    candidates = real_mesh.explain(theirs[0].request_id).candidates
    assert {each.expected_cached_tokens for each in candidates} == {0}
    # No more than the chat template's first words, of an earlier prompt of its own.
    assert theirs[0].usage.cached_prompt_tokens < TEMPLATE_TOKENS
    assert ours[0].usage.prompt_tokens == theirs[0].usage.prompt_tokens


def test_what_was_expected_is_counted_beside_what_was_found(simulated_mesh: Mesh) -> None:
    conversation(simulated_mesh, "counted")

    def counted() -> bool:
        page = simulated_mesh.metrics()
        return any(
            'kind="expected_cached_prompt"' in row and not row.endswith(" 0.0")
            for row in page.splitlines()
        )

    until(counted)
