"""What llama.cpp itself decodes: no request may take the engine down, nor the next one."""

import asyncio
from typing import Any

import pytest

from evenflow.client import Client, chat_request
from evenflow.errors import Refused
from evenflow.inference.v1 import inference_service_pb2 as pb
from tests.integration.whole.mesh import Mesh

CONTEXT = 2048


def asked(mesh: Mesh, request: pb.GenerateRequest) -> list[Any]:
    async def scenario() -> list[Any]:
        folder = mesh.tenant("acme")
        async with Client(mesh.address, certificate_folder=folder) as client:
            return [event async for event in client.generate(request, deadline_s=60)]

    return asyncio.run(scenario())


def sampled(mesh: Mesh, **sampling: Any) -> pb.GenerateRequest:
    return chat_request(mesh.model, "hi", sampling=pb.Sampling(max_output_tokens=2, **sampling))


@pytest.mark.parametrize(
    "schema",
    [
        '{"type": "integer", "minimum": NaN}',
        '{"type": "integer", "minimum": 1e400}',
        '{"const": "\\ud800"}',
        '{"type": "array", "minItems": 1000000000}',
        '{"type": "string", "pattern": "^(((("}',
        '{"type": "string", "pattern": "^(a{1,1000}){1,1000}$"}',
        '{"enum": []}',
        "[" * 60_000,
    ],
    ids=["NaN", "1e400", "half a pair", "items", "brackets", "repeats", "enum", "deep"],
)
def test_a_schema_is_refused_before_the_engine_chokes_on_it(real: Mesh, schema: str) -> None:
    with pytest.raises(Refused) as caught:
        asked(real, sampled(real, json_schema=schema))

    assert (caught.value.reason, caught.value.field) == ("FIELD_INVALID", "sampling.json_schema")
    assert asked(real, sampled(real))[-1].usage.output_tokens > 0


@pytest.mark.parametrize("text", ["\0", "a\0b", "\ufeff", " ", "\uffff", "<|im_start|>", "\x1b[2J"])
def test_any_text_is_a_prompt(real: Mesh, text: str) -> None:
    sampling = pb.Sampling(max_output_tokens=2, stop=["\0"])
    events = asked(real, pb.GenerateRequest(model=real.model, text=text, sampling=sampling))

    assert events[-1].usage.prompt_tokens >= 1


@pytest.mark.parametrize(
    "sampling",
    [{"seed": 2**63 - 1}, {"top_k": 2**31 - 1}, {"top_p": 5e-324}, {"temperature": 5e-324}],
    ids=["seed", "top_k", "top_p", "temperature"],
)
def test_the_ends_of_each_range_are_served(real: Mesh, sampling: dict[str, Any]) -> None:
    assert asked(real, sampled(real, **sampling))[-1].usage.output_tokens > 0


@pytest.mark.parametrize("ids", [[-1], [49152], [2**31 - 1]])
def test_ids_outside_the_vocabulary_are_refused(real: Mesh, ids: list[int]) -> None:
    with pytest.raises(Refused) as caught:
        asked(real, pb.GenerateRequest(model=real.model, tokens=pb.TokenInput(ids=ids)))

    assert caught.value.field == "tokens.ids"


@pytest.mark.parametrize("which", ["simulated", "real"])
def test_the_context_is_used_to_its_last_token_and_not_beyond(
    which: str, request: pytest.FixtureRequest
) -> None:
    mesh: Mesh = request.getfixturevalue(which)
    exact = pb.GenerateRequest(
        model=mesh.model,
        tokens=pb.TokenInput(ids=[20] * (CONTEXT - 3)),
        sampling=pb.Sampling(max_output_tokens=3, ignore_eos=True),
    )

    assert asked(mesh, exact)[-1].usage.output_tokens == 3
    exact.tokens.ids.append(20)
    with pytest.raises(Refused) as caught:
        asked(mesh, exact)
    assert caught.value.reason == "CONTEXT_TOO_LONG"
    assert caught.value.field == "sampling.max_output_tokens"


def test_what_cannot_fit_is_not_even_tokenized(real: Mesh) -> None:
    with pytest.raises(Refused) as caught:
        asked(real, pb.GenerateRequest(model=real.model, text=" " * 4_000_000))

    assert (caught.value.reason, caught.value.field) == ("CONTEXT_TOO_LONG", "text")
