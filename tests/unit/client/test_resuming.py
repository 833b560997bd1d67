"""Both clients carry broken streams on, against a mesh that breaks them where a test says."""

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from evenflow.blocking import BlockingClient
from evenflow.client import Client, chat_request, prompt_request
from evenflow.errors import DeadlineExceeded, StreamLost
from evenflow.inference.v1 import inference_service_pb2 as pb
from evenflow.requests import Event
from tests.unit.client.scripted_mesh import (
    FINISHED,
    MODEL,
    STARTED,
    Ending,
    Script,
    ScriptedMesh,
    breaks,
    refuses,
    scripted_mesh,
    waits,
)

REQUEST = chat_request(MODEL, "Hello?")
PIECES = ("Once", " upon", " a", " time", "🌊", ".")
TEXT = "".join(PIECES)
RESUMABLE = pb.Started(request_id="r-1", model=MODEL, resumable=True)
RESET = breaks(grpc.StatusCode.INTERNAL, "RST_STREAM with error code 2")
Generate = Callable[..., list[Event]]


@dataclass
class Model:
    """Writes PIECES, each a token whose id is its place; the last comes without, as it must."""

    endings: Sequence[tuple[int, Ending]]  # of each stream: after so many responses
    started: pb.Started = field(default_factory=lambda: RESUMABLE)
    asked: list[list[int]] = field(default_factory=list)
    asked_at_s: list[float] = field(default_factory=list)

    def __call__(
        self, request: pb.GenerateRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.GenerateResponse]:
        self.asked.append(list(request.resume.token_ids))
        self.asked_at_s.append(time.monotonic())
        left = self.responses(len(request.resume.token_ids))
        if len(self.asked) > len(self.endings):
            yield from left
            return
        after, ending = self.endings[len(self.asked) - 1]
        yield from itertools.islice(left, after)
        ending(context)

    def responses(self, resumed: int) -> Iterator[pb.GenerateResponse]:
        request_id = f"r-{len(self.asked)}"
        started = pb.Started()
        started.CopyFrom(self.started)
        started.request_id = request_id
        yield pb.GenerateResponse(started=started)
        for at, piece in enumerate(PIECES):
            if at >= resumed:
                told = self.started.resumable and at < len(PIECES) - 1
                delta = pb.Delta(text=piece, tokens=1, token_ids=[at] if told else [])
                yield pb.GenerateResponse(delta=delta)
        yield pb.GenerateResponse(finished=FINISHED)


def hangs(context: grpc.ServicerContext) -> None:
    gone = threading.Event()
    context.add_callback(gone.set)
    gone.wait(10)


def generate_async(mesh: ScriptedMesh, deadline_s: float = 5, resumes: int = 2) -> list[Event]:
    async def scenario() -> list[Event]:
        async with Client(mesh.address, certificate_folder=mesh.certificates) as client:
            events = client.generate(REQUEST, deadline_s=deadline_s, resumes=resumes)
            return [event async for event in events]

    return asyncio.run(scenario())


def generate_blocking(mesh: ScriptedMesh, deadline_s: float = 5, resumes: int = 2) -> list[Event]:
    with BlockingClient(mesh.address, certificate_folder=mesh.certificates) as client:
        return list(client.generate(REQUEST, deadline_s=deadline_s, resumes=resumes))


both = pytest.mark.parametrize("generate", [generate_async, generate_blocking])


def unbroken() -> list[Event]:
    responses = Model([]).responses(0)
    deltas = [each.delta for each in responses if each.HasField("delta")]
    return [RESUMABLE, *deltas, FINISHED]


@both
def test_a_break_anywhere_is_not_seen(generate: Generate, tmp_path: Path) -> None:
    script = Script()
    with scripted_mesh(script, tmp_path) as mesh:
        for cut in range(1, len(PIECES) + 2):
            script.answer = model = Model([(cut, RESET)])
            assert (cut, generate(mesh)) == (cut, unbroken())
            assert model.asked == [[], list(range(min(cut - 1, len(PIECES) - 1)))]


def test_a_prompts_version_is_carried_on(tmp_path: Path) -> None:
    started = pb.Started(request_id="r-1", model=MODEL, resumable=True, prompt_version=4)
    script = Script(answer=Model([(3, RESET)], started=started))
    request = prompt_request("trip", {"city": "Rome"}, label="canary", sticky="c1")

    with (
        scripted_mesh(script, tmp_path) as mesh,
        BlockingClient(mesh.address, certificate_folder=mesh.certificates) as client,
    ):
        list(client.generate(request))

    first, second = (each.prompt for each in script.requests)
    assert (first.label, second.version, second.name) == ("canary", 4, "trip")
    assert second.variables == first.variables


@both
def test_it_may_break_as_often_as_is_allowed(generate: Generate, tmp_path: Path) -> None:
    twice = Model([(3, RESET), (3, RESET)])
    thrice = Model([(3, RESET), (2, RESET), (2, RESET)])

    with scripted_mesh(Script(answer=twice), tmp_path / "twice") as mesh:
        assert generate(mesh) == unbroken()
    with (
        scripted_mesh(Script(answer=thrice), tmp_path / "thrice") as mesh,
        pytest.raises(StreamLost) as caught,
    ):
        generate(mesh)

    assert thrice.asked == [[], [0, 1], [0, 1, 2]]
    assert (caught.value.text, caught.value.tokens) == ("Once upon a time", 4)
    assert caught.value.request_id == "r-1"


@both
def test_a_stream_that_is_not_resumable_is_lost_at_once(generate: Generate, tmp_path: Path) -> None:
    model = Model([(3, RESET)], started=STARTED)

    with scripted_mesh(Script(answer=model), tmp_path) as mesh, pytest.raises(StreamLost) as caught:
        generate(mesh)

    assert isinstance(caught.value.__cause__, grpc.RpcError)
    assert len(model.asked) == 1


@both
def test_nobody_is_made_to_carry_on(generate: Generate, tmp_path: Path) -> None:
    model = Model([(3, RESET)])

    with scripted_mesh(Script(answer=model), tmp_path) as mesh, pytest.raises(StreamLost):
        generate(mesh, resumes=0)

    assert len(model.asked) == 1


@both
def test_a_refused_resumption_is_the_stream_s_loss(generate: Generate, tmp_path: Path) -> None:
    no = refuses(grpc.StatusCode.PERMISSION_DENIED, "RESUME_NOT_ALLOWED", "no more", field="resume")
    model = Model([(3, RESET), (0, no)])

    with scripted_mesh(Script(answer=model), tmp_path) as mesh, pytest.raises(StreamLost) as caught:
        generate(mesh)

    assert (caught.value.text, len(model.asked)) == ("Once upon", 2)


@both
def test_it_comes_back_when_it_is_told_to(generate: Generate, tmp_path: Path) -> None:
    nowhere = refuses(
        grpc.StatusCode.UNAVAILABLE, "NO_ENDPOINT", "nobody is ready", retry_after_s=0.4
    )
    model = Model([(3, RESET), (0, nowhere)])

    with scripted_mesh(Script(answer=model), tmp_path) as mesh:
        assert generate(mesh) == unbroken()

    _, second_s, third_s = model.asked_at_s
    assert third_s - second_s > 0.35


@both
def test_the_deadline_holds_for_all_streams_together(generate: Generate, tmp_path: Path) -> None:
    model = Model([(3, RESET), (2, hangs)])

    with (
        scripted_mesh(Script(answer=model), tmp_path) as mesh,
        pytest.raises(DeadlineExceeded) as caught,
    ):
        generate(mesh, deadline_s=0.7)

    assert caught.value.text == "Once upon a"
    assert len(model.asked) == 2


def test_who_leaves_is_not_carried_on(tmp_path: Path) -> None:
    script = Script()
    model = script.answer = Model([(3, waits(script))])

    async def scenario(mesh: ScriptedMesh) -> bool:
        async with Client(mesh.address, certificate_folder=mesh.certificates) as client:
            async with aclosing(client.generate(REQUEST)) as events:
                async for event in events:
                    if isinstance(event, pb.Delta):
                        break
            return await asyncio.to_thread(script.ended.wait, 5)

    with scripted_mesh(script, tmp_path) as mesh:
        assert asyncio.run(scenario(mesh))
    assert len(model.asked) == 1


@both
def test_tokens_that_can_not_be_told_end_it(generate: Generate, tmp_path: Path) -> None:
    """A delta without ids that is not the last: from there on nobody could carry it on."""

    def answer(
        _: pb.GenerateRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.GenerateResponse]:
        yield pb.GenerateResponse(started=RESUMABLE)
        for text in ("one", "two"):
            yield pb.GenerateResponse(delta=pb.Delta(text=text, tokens=1))
        RESET(context)

    with (
        scripted_mesh(Script(answer=answer), tmp_path) as mesh,
        pytest.raises(StreamLost) as caught,
    ):
        generate(mesh)

    assert caught.value.text == "onetwo"
