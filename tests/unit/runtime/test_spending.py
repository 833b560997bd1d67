"""A reservation bounds what is written, and every attempt is written down once: over real gRPC."""

import asyncio
import random
from collections.abc import AsyncIterable, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import grpc
import pytest
from google.protobuf import json_format

from evenflow.inference.v1 import inference_service_pb2 as pb
from evenflow.openai.v1 import chat_service_pb2 as chat_pb
from evenflow.policy.v1 import ledger_service_pb2 as ledger_pb
from services.runtime.core.simulation import Behaviour
from services.runtime.outbound.journal import FileJournal
from services.runtime.outbound.simulated import SimulatedEngine
from tests.fakes.charging import HARD, WINDOW, charge, charged, ends, journaling
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


@dataclass(frozen=True, slots=True)
class Scene:
    stubs: Stubs
    journal: FileJournal
    runtime: Runtime


PATIENCE_S = 10.0
BEHAVIOUR = Behaviour(step_s=0.002, max_context_tokens=10_000, max_running=2, kv_blocks=2048)
PROMPT_TOKENS = 3  # of "Tell me."
LONG = asking(max_output_tokens=5000, ignore_eos=True)


def against(
    folder: Path,
    body: Callable[[Scene], Awaitable[T]],
    *,
    known: bool = True,
    most_attempts: int = 1000,
) -> T:
    async def scenario() -> T:
        with journaling(folder, known=known, most_attempts=most_attempts) as journal:
            async with (
                running(folder, SimulatedEngine(BEHAVIOUR), journal=journal) as runtime,
                runtime.called_by("gateway") as stubs,
            ):
                result = await body(Scene(stubs, journal, runtime))
                await idle(runtime)
                return result

    return asyncio.run(scenario())


async def idle(runtime: Runtime) -> None:
    async with asyncio.timeout(PATIENCE_S):
        await runtime.serving.wait_until_idle()


async def told(journal: FileJournal, number: int = 1) -> list[ledger_pb.AttemptUsage]:
    async with asyncio.timeout(PATIENCE_S):
        while len(ends(journal)) < number:
            journal.changed.clear()
            await journal.changed.wait()
    return ends(journal)


async def refused(
    stubs: Stubs, metadata: tuple[tuple[str, str], ...], request: pb.GenerateRequest = LONG
) -> tuple[Refusal, str, int]:
    """With the text and the tokens that came before it."""
    events: list[pb.GenerateResponse] = []
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await gathered(stubs.inference.Generate(request, metadata=metadata, timeout=20), events)
    assert not any(each.HasField("finished") for each in events)
    text = "".join(each.delta.text for each in events)
    return refusal(caught.value), text, sum(each.delta.tokens for each in events)


async def gathered(call: AsyncIterable[T], into: list[T]) -> None:
    async for each in call:
        into.append(each)  # noqa: PERF401 - what came before an error stays


def test_an_answer_is_written_down_before_its_last_word(tmp_path: Path) -> None:
    async def body(scene: Scene) -> list[ledger_pb.AttemptUsage]:
        request = asking(max_output_tokens=4, ignore_eos=True)
        charges = charge(rates=(3, 2, 5)), charge("acme/soft", hard=False)
        async for event in scene.stubs.inference.Generate(request, metadata=charged(*charges)):
            if event.WhichOneof("event") == "finished":
                return ends(scene.journal)
        raise AssertionError

    (end,) = against(tmp_path, body)

    assert (end.sequence, end.reservation, end.attempt) == (1, "router-1.7", 1)
    assert (end.request_id, end.tenant, end.workload) == ("r-1", "acme", "web")
    assert (end.model, end.model_version, end.presumed) == ("simulated", "simulated", False)
    assert (end.prompt_tokens, end.output_tokens) == (PROMPT_TOKENS, 4)
    assert [(each.account.budget, each.units) for each in end.charges] == [
        (HARD, 3 * PROMPT_TOKENS + 5 * 4),
        ("acme/soft", PROMPT_TOKENS + 4),
    ]
    assert end.charges[0].account.window_start_unix_s == WINDOW
    assert end.HasField("ended_at")


def test_a_stream_is_cut_where_its_reservation_ends(tmp_path: Path) -> None:
    async def body(scene: Scene) -> tuple[Refusal, str, int, int]:
        metadata = charged(charge(reserved=PROMPT_TOKENS + 6))
        cut = await refused(scene.stubs, metadata)
        return *cut, ends(scene.journal)[0].charges[0].units

    said, text, tokens, units = against(tmp_path, body)

    assert (said.code, said.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "BUDGET_EXHAUSTED")
    assert said.trailers["x-evenflow-reason"] == "BUDGET_EXHAUSTED"
    assert said.trailers["x-evenflow-output-tokens"] == "6"
    assert (tokens, units) == (6, PROMPT_TOKENS + 6)
    assert text.startswith("[simulated]")


def test_a_resumable_stream_that_is_cut_tells_all_that_was_written(tmp_path: Path) -> None:
    async def body(scene: Scene) -> tuple[Refusal, str, int]:
        metadata = charged(charge(reserved=PROMPT_TOKENS + 6), resumable="1")
        return await refused(scene.stubs, metadata)

    said, text, tokens = against(tmp_path, body)

    assert (said.reason, tokens) == ("BUDGET_EXHAUSTED", 6)
    assert text


def test_an_answer_that_ends_by_itself_within_its_reservation_is_whole(tmp_path: Path) -> None:
    async def body(scene: Scene) -> str:
        request = asking(max_output_tokens=6, ignore_eos=True)
        metadata = charged(charge(reserved=PROMPT_TOKENS + 6))
        events = [each async for each in scene.stubs.inference.Generate(request, metadata=metadata)]
        return pb.FinishReason.Name(events[-1].finished.reason)

    assert against(tmp_path, body) == "FINISH_REASON_LENGTH"


def completion() -> chat_pb.ChatCompletion:
    hello = [{"role": "user", "content": "Hello"}]
    asked = {"model": "simulated", "messages": hello, "max_tokens": 5000}
    return json_format.ParseDict(asked, chat_pb.ChatCompletion())


def test_openai_callers_are_told_in_their_stream(tmp_path: Path) -> None:
    async def body(scene: Scene) -> tuple[str, str, int]:
        request = chat_pb.StreamChatCompletionRequest(completion=completion())
        call = scene.stubs.chat.StreamChatCompletion(request, metadata=charged(charge(reserved=60)))
        said: list[chat_pb.StreamChatCompletionResponse] = []
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await gathered(call, said)
        text = b"".join(each.events.data for each in said).decode()
        return text, refusal(caught.value).reason, ends(scene.journal)[0].charges[0].units

    text, reason, units = against(tmp_path, body)

    assert reason == "BUDGET_EXHAUSTED"
    assert '"code":"BUDGET_EXHAUSTED"' in text.replace(" ", "")
    assert '"finish_reason":"' not in text
    assert "[DONE]" not in text
    assert units == 60


def test_openai_callers_who_want_it_whole_are_refused(tmp_path: Path) -> None:
    async def body(scene: Scene) -> tuple[Refusal, int]:
        request = chat_pb.CreateChatCompletionRequest(completion=completion())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await scene.stubs.chat.CreateChatCompletion(
                request, metadata=charged(charge(reserved=60))
            )
        return refusal(caught.value), ends(scene.journal)[0].charges[0].units

    said, units = against(tmp_path, body)

    assert (said.reason, units) == ("BUDGET_EXHAUSTED", 60)


def test_a_prompt_above_its_reservation_is_refused_with_its_true_size(tmp_path: Path) -> None:
    async def body(scene: Scene) -> tuple[Refusal, int]:
        said, _, _ = await refused(scene.stubs, charged(charge(reserved=PROMPT_TOKENS)))
        return said, len(ends(scene.journal))

    said, written = against(tmp_path, body)

    assert (said.code, said.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "BUDGET_ESTIMATE_LOW")
    assert said.trailers["x-evenflow-prompt-tokens"] == str(PROMPT_TOKENS)
    assert written == 0


def test_an_attempt_that_is_not_covered_is_refused(tmp_path: Path) -> None:
    async def body(scene: Scene) -> tuple[str, int]:
        said, _, tokens = await refused(scene.stubs, charged(covered=2, attempt="3"))
        return said.reason, tokens + len(ends(scene.journal))

    assert against(tmp_path, body) == ("BUDGET_EXHAUSTED", 0)


def test_an_attempt_counts_once_and_so_it_works_once(tmp_path: Path) -> None:
    async def body(scene: Scene) -> tuple[str, int]:
        request = asking(max_output_tokens=1)
        async for _ in scene.stubs.inference.Generate(request, metadata=charged()):
            pass
        said, _, _ = await refused(scene.stubs, charged())
        return said.reason, len(ends(scene.journal))

    assert against(tmp_path, body) == ("BUDGET_EXHAUSTED", 1)


def test_who_leaves_is_charged_what_was_used(tmp_path: Path) -> None:
    async def body(scene: Scene) -> tuple[int, ledger_pb.AttemptUsage]:
        call = scene.stubs.inference.Generate(LONG, metadata=charged())
        tokens = 0
        for _ in range(5):
            tokens += (await call.read()).delta.tokens
        call.cancel()
        return tokens, (await told(scene.journal))[0]

    tokens, end = against(tmp_path, body)

    assert end.output_tokens >= tokens
    assert end.charges[0].units == end.prompt_tokens + end.output_tokens
    assert not end.presumed


def test_who_leaves_before_the_first_token_is_charged_once(tmp_path: Path) -> None:
    async def body(scene: Scene) -> list[ledger_pb.AttemptUsage]:
        call = scene.stubs.inference.Generate(LONG, metadata=charged())
        engine = scene.runtime.serving.engine
        async with asyncio.timeout(PATIENCE_S):
            while not engine.state().running:  # noqa: ASYNC110 - it can only be asked
                await asyncio.sleep(0)
        call.cancel()
        await idle(scene.runtime)
        return await told(scene.journal)

    (end,) = against(tmp_path, body)

    assert end.charges[0].units == PROMPT_TOKENS + end.output_tokens


def test_under_any_interleaving_each_attempt_ends_once_within_its_reservation(
    tmp_path: Path,
) -> None:
    reserved, chance = 40, random.Random(5)  # noqa: S311 - a test's own

    async def one(scene: Scene, number: int, read: int) -> int:
        """Tokens that came until it left or was cut."""
        metadata = charged(charge(reserved=reserved), reservation=f"r.{number}")
        call = scene.stubs.inference.Generate(LONG, metadata=metadata)
        events: list[pb.GenerateResponse] = []
        with suppress(grpc.aio.AioRpcError):
            while len(events) < read:
                events.append(await call.read())
        call.cancel()
        return sum(each.delta.tokens for each in events)

    async def body(scene: Scene) -> tuple[list[int], list[ledger_pb.AttemptUsage]]:
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(one(scene, number, chance.choice((1, 5, 20, 100))))
                for number in range(60)
            ]
        return [each.result() for each in running], await told(scene.journal, 60)

    came, ended = against(tmp_path, body)

    by_request = {each.reservation: each for each in ended}
    assert len(by_request) == len(ended) == 60
    assert all(each.charges[0].units <= reserved for each in ended)
    assert all(by_request[f"r.{at}"].output_tokens >= tokens for at, tokens in enumerate(came))


def test_what_the_engine_refuses_has_used_nothing(tmp_path: Path) -> None:
    async def body(scene: Scene) -> list[ledger_pb.AttemptUsage]:
        request = pb.GenerateRequest(model="simulated")
        request.tokens.ids.append(2**30)
        said, _, _ = await refused(scene.stubs, charged(), request)
        assert said.reason == "FIELD_INVALID"
        return ends(scene.journal)

    assert [each.charges[0].units for each in against(tmp_path, body)] == [0]


@pytest.mark.parametrize(
    ("known", "most_attempts", "reason"),
    [(False, 1000, "LEDGER_UNREACHABLE"), (True, 0, "JOURNAL_UNWRITABLE")],
)
def test_what_cannot_be_settled_is_tried_elsewhere(
    tmp_path: Path, known: bool, most_attempts: int, reason: str
) -> None:
    async def body(scene: Scene) -> Refusal:
        return (await refused(scene.stubs, charged()))[0]

    said = against(tmp_path, body, known=known, most_attempts=most_attempts)

    assert (said.code, said.reason) == (grpc.StatusCode.UNAVAILABLE, reason)


@pytest.mark.parametrize(("known", "most_attempts"), [(False, 1000), (True, 0)])
def test_soft_budgets_and_none_go_on(tmp_path: Path, known: bool, most_attempts: int) -> None:
    async def body(scene: Scene) -> None:
        for metadata in (charged(charge(hard=False)), owner()):
            request = asking(max_output_tokens=1)
            async for _ in scene.stubs.inference.Generate(request, metadata=metadata):
                pass

    against(tmp_path, body, known=known, most_attempts=most_attempts)


def test_what_no_budget_counts_leaves_nothing_behind(tmp_path: Path) -> None:
    async def body(scene: Scene) -> int:
        async for _ in scene.stubs.inference.Generate(
            asking(max_output_tokens=1), metadata=owner()
        ):
            pass
        return len(ends(scene.journal))

    assert against(tmp_path, body) == 0


def test_a_runtime_without_policy_refuses_what_budgets_count(tmp_path: Path) -> None:
    async def scenario() -> str:
        async with (
            running(tmp_path, SimulatedEngine(BEHAVIOUR)) as runtime,
            runtime.called_by("gateway") as stubs,
        ):
            return (await refused(stubs, charged(charge(hard=False))))[0].reason

    assert asyncio.run(scenario()) == "LEDGER_UNREACHABLE"


def test_a_malformed_header_is_named_to_the_gateway(tmp_path: Path) -> None:
    async def body(scene: Scene) -> Refusal:
        return (await refused(scene.stubs, charged("acme/tokens@x=1:1:1:1:1")))[0]

    said = against(tmp_path, body)

    assert (said.reason, said.field) == ("FIELD_INVALID", "x-evenflow-charges")


def test_the_trailers_of_a_whole_answer_say_what_was_charged_for(tmp_path: Path) -> None:
    async def body(scene: Scene) -> tuple[dict[str, str], int]:
        call = scene.stubs.inference.Generate(asking(max_output_tokens=3), metadata=charged())
        async for _ in call:
            pass
        return plain(await call.trailing_metadata()), ends(scene.journal)[0].output_tokens

    trailers, output_tokens = against(tmp_path, body)

    assert trailers["x-evenflow-output-tokens"] == str(output_tokens)
