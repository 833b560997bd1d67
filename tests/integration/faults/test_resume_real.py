"""A stream of a real model, whose runtime is killed, is carried on by the other one's."""

import asyncio
from collections.abc import Iterator

import pytest

from evenflow.client import chat_request
from evenflow.inference.v1 import inference_service_pb2 as pb
from tests.integration.faults.test_resume import (
    LOOK_EVERY_S,
    Read,
    all_ready,
    allowed,
    client,
    read,
)
from tests.integration.whole.mesh import Mesh, running
from tests.integration.whole.programs import Programs

# It has one right answer: what is read in one go has other roundings than what was written token
# by token, and they may decide between words that are equally likely.
QUESTION = "Repeat after me: one two three four 🌊 漢字 five six seven eight nine ten eleven."
GREEDY = pb.Sampling(temperature=0, max_output_tokens=40)


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    environ = {"ENGINE": "llamacpp"}
    with running(command="run", model="smollm2-135m-instruct", environ=environ) as started:
        asyncio.run(allowed(started))
        yield started


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6])
def test_it_goes_on_where_it_broke(mesh: Mesh, share: float) -> None:
    async def scenario() -> tuple[Read, Read]:
        request = chat_request(mesh.model, QUESTION, sampling=GREEDY)
        async with all_ready(mesh), client(mesh) as made:
            unbroken, got = await read(made, request), Read()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(read(made, request, got))
                while got.tokens <= share * unbroken.tokens:  # noqa: ASYNC110 - it grows
                    await asyncio.sleep(LOOK_EVERY_S / 10)
                at = mesh.runtimes.index(got.endpoint)
                Programs(mesh.home).kill(f"runtime-{at + 1}")
        return unbroken, got

    unbroken, got = asyncio.run(scenario())

    assert got.text == unbroken.text
    assert got.answer[2:] == unbroken.answer[2:]
    assert got.starts == 1
