"""A mesh of two models that steps down its ladder under load and without a model, and says so."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from evenflow.client import Client, chat_request
from evenflow.errors import Refused
from evenflow.home import service_folder
from evenflow.inference.v1 import inference_service_pb2 as pb
from evenflow.inference.v1 import workload_class_pb2
from services.chassis.identity import TlsFiles
from tests.integration.faults.operator import Operator, operator
from tests.integration.whole.mesh import Mesh, running
from tests.integration.whole.programs import Programs, until

SAID = "x-evenflow-degradations"
MAX_RUNNING = 2
SIMULATED = {
    "RUNTIME_2_MODEL": "tiny",
    "RUNTIME_MAX_RUNNING": str(MAX_RUNNING),
    "RUNTIME_SIMULATED_STEP_S": "0.02",
}
LADDERS = """
classes:
  interactive:
    ladder:
      - {when: saturated, rung: smaller_output, max_output_tokens: 5}
      - {when: saturated, rung: smaller_context, max_prompt_tokens: 60}
      - {when: model_unhealthy, rung: fallback_model, model: tiny}
  high_risk:
    ladder:
      - {when: saturated, rung: refuse}
"""
BATCH = workload_class_pb2.WORKLOAD_CLASS_BATCH
HIGH_RISK = workload_class_pb2.WORKLOAD_CLASS_HIGH_RISK
LONG_TOKENS = 150  # 3 s, in which the others are asked
ASKED: dict[str, Any] = {
    "model": "simulated",
    "messages": [{"role": "user", "content": "hi"}],
    "ignore_eos": True,
    "max_tokens": 20,
}
DEADLINE_S = 30.0
KNOWN_WITHIN_S = 10.0
LOOK_EVERY_S = 0.02


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with running(command="simulate", model="simulated", environ=SIMULATED) as started:
        file = started.home / "tenants.yaml"
        before = asyncio.run(policy_version(started))
        globex = file.read_text().replace("smollm2-135m-instruct", "simulated")
        file.write_text(globex + LADDERS)
        until(lambda: asyncio.run(policy_version(started)) != before, within_s=KNOWN_WITHIN_S)
        yield started


async def policy_version(mesh: Mesh) -> str:
    async with operated(mesh) as asked:
        return await asked.policy_version()


@asynccontextmanager
async def operated(mesh: Mesh) -> AsyncIterator[Operator]:
    tls = TlsFiles.in_folder(service_folder(mesh.home, "operator"))
    async with operator(f"127.0.0.1:{mesh.ports('router')[0]}", tls) as asked:
        yield asked


@dataclass(slots=True)
class Answer:
    started: pb.Started = field(default_factory=pb.Started)
    finished: pb.Finished = field(default_factory=pb.Finished)

    @property
    def said(self) -> list[str]:
        return [f"{each.rung}={each.reason}" for each in self.started.degradations]


async def generated(mesh: Mesh, request: pb.GenerateRequest, *, tenant: str = "acme") -> Answer:
    answer = Answer()
    async with Client(mesh.address, certificate_folder=mesh.tenant(tenant)) as client:
        async for event in client.generate(request, deadline_s=DEADLINE_S):
            if isinstance(event, pb.Started):
                answer.started = event
            elif isinstance(event, pb.Finished):
                answer.finished = event
    return answer


def asking(tokens: int = 20, **more: Any) -> pb.GenerateRequest:
    sampling = pb.Sampling(max_output_tokens=tokens, ignore_eos=True)
    return chat_request("simulated", "hi", sampling=sampling, **more)


async def refused(mesh: Mesh, request: pb.GenerateRequest, *, tenant: str = "acme") -> str:
    with pytest.raises(Refused) as caught:
        await generated(mesh, request, tenant=tenant)
    assert caught.value.retry_after_s is not None
    return caught.value.reason


async def completed(mesh: Mesh, *, headers: dict[str, str] | None = None, **asked: Any) -> Any:
    key = {"authorization": f"Bearer {mesh.api_key('acme')}"}
    async with httpx.AsyncClient(base_url=mesh.frontend, timeout=DEADLINE_S) as http:
        return await http.post(
            "/v1/chat/completions", json=ASKED | asked, headers=key | (headers or {})
        )


async def idle(mesh: Mesh) -> None:
    """The router has heard that all have ended: until then it takes them for under way."""
    async with operated(mesh) as asked:
        await asked.until_idle(within_s=DEADLINE_S)


@asynccontextmanager
async def saturated(mesh: Mesh) -> AsyncIterator[None]:
    """The model's one runtime runs all that it can, and batches wait for it, for some seconds."""
    async with asyncio.TaskGroup() as tasks:
        for _ in range(3 * MAX_RUNNING):
            tasks.create_task(generated(mesh, asking(LONG_TOKENS, workload_class=BATCH)))
        await asyncio.to_thread(until, lambda: _some_wait(mesh))
        yield


def _some_wait(mesh: Mesh) -> bool:
    name = 'evenflow_queued_requests{band="batch"} '
    waiting = [
        row.removeprefix(name) for row in mesh.metrics().splitlines() if row.startswith(name)
    ]
    return any(float(each) > 0 for each in waiting)


@asynccontextmanager
async def without_the_model(mesh: Mesh) -> AsyncIterator[None]:
    programs = Programs(mesh.home)
    async with operated(mesh) as asked:
        await asyncio.to_thread(programs.control.stop, "runtime-1")
        try:
            await asked.until_ready(mesh.runtimes[0], ready=False, within_s=KNOWN_WITHIN_S)
            yield
        finally:
            await asyncio.to_thread(programs.control.start, "runtime-1")
            await asked.until_ready(mesh.runtimes[0], ready=True, within_s=DEADLINE_S)


def test_under_load_answers_are_shorter_and_say_so(mesh: Mesh) -> None:
    async def scenario() -> None:
        await idle(mesh)
        async with saturated(mesh), asyncio.TaskGroup() as tasks:
            stub = tasks.create_task(generated(mesh, asking()))
            whole = tasks.create_task(completed(mesh))
            parts = tasks.create_task(completed(mesh, stream=True))
            high_risk = tasks.create_task(refused(mesh, asking(workload_class=HIGH_RISK)))

        answer = stub.result()
        assert answer.said == ["smaller_output=saturated"]
        assert answer.finished.usage.output_tokens == 5
        assert answer.finished.reason == pb.FINISH_REASON_LENGTH
        for each in (whole.result(), parts.result()):
            assert each.status_code == 200
            assert each.headers.get_list(SAID) == ["smaller_output=saturated"]
        assert whole.result().json()["usage"]["completion_tokens"] == 5
        assert whole.result().json()["choices"][0]["finish_reason"] == "length"
        assert parts.result().text.rstrip().endswith("data: [DONE]")
        assert high_risk.result() == "SHED"
        await _explained(mesh, answer.started.request_id)

    asyncio.run(scenario())
    counted = 'evenflow_degraded_requests_total{reason="saturated",rung="%s",workload_class="%s"}'
    until(lambda: counted % ("smaller_output", "interactive") in mesh.metrics())
    until(lambda: counted % ("refuse", "high_risk") in mesh.metrics())


async def _explained(mesh: Mesh, request_id: str) -> None:
    async with operated(mesh) as asked, asyncio.timeout(KNOWN_WITHIN_S):
        while not (why := await asked.explain(request_id)).HasField("outcome"):  # noqa: ASYNC110 - it can only be asked
            await asyncio.sleep(LOOK_EVERY_S)
    assert [(each.rung, each.reason) for each in why.degradations] == [
        ("smaller_output", "saturated")
    ]
    assert why.max_output_tokens == 5


def test_under_load_old_turns_are_left_out(mesh: Mesh) -> None:
    turns = [("user", "word " * 100), ("assistant", "word " * 100), ("user", "And now?")]
    messages = [{"role": role, "content": text} for role, text in turns]

    async def scenario() -> None:
        await idle(mesh)
        async with saturated(mesh):
            answer = await completed(mesh, messages=messages)
        assert answer.headers[SAID] == "smaller_output=saturated,smaller_context=saturated"
        assert answer.json()["usage"]["prompt_tokens"] < 60

    asyncio.run(scenario())


def test_without_pressure_nothing_is_degraded(mesh: Mesh) -> None:
    async def scenario() -> None:
        await idle(mesh)
        answer, whole = await generated(mesh, asking()), await completed(mesh)

        assert (answer.said, answer.finished.usage.output_tokens) == ([], 20)
        assert SAID not in whole.headers
        assert whole.json()["usage"]["completion_tokens"] == 20

    asyncio.run(scenario())


def test_a_model_without_a_runtime_is_answered_for_by_another(mesh: Mesh) -> None:
    async def scenario() -> None:
        await idle(mesh)
        async with without_the_model(mesh):
            answer = await generated(mesh, asking())
            assert answer.said == ["fallback_model=model_unhealthy"]
            assert (answer.started.model, answer.started.endpoint) == ("tiny", mesh.runtimes[1])
            assert answer.finished.usage.output_tokens == 20
            for stream in (False, True):
                whole = await completed(mesh, stream=stream)
                assert whole.headers.get_list(SAID) == ["fallback_model=model_unhealthy"]
                assert '"model":"tiny"' in whole.text.replace(" ", "")

            assert await refused(mesh, asking(workload_class=HIGH_RISK)) == "NO_ENDPOINT"
            assert await refused(mesh, asking(workload_class=BATCH)) == "NO_ENDPOINT"
            # It may use the one model only.
            assert await refused(mesh, asking(), tenant="globex") == "NO_ENDPOINT"
        assert (await generated(mesh, asking())).started.model == "simulated"

    asyncio.run(scenario())


def test_what_a_client_says_itself_has_no_effect(mesh: Mesh) -> None:
    claimed = {
        SAID: "smaller_output=me,fallback_model=me",
        "x-evenflow-model": "tiny",
        "x-evenflow-output-cap": "1",
        "x-evenflow-context-cap": "1",
    }

    async def scenario() -> None:
        await idle(mesh)
        answer = await completed(mesh, headers=claimed)
        assert answer.json()["model"] == "simulated"
        assert answer.json()["usage"]["completion_tokens"] == 20
        assert SAID not in answer.headers

    asyncio.run(scenario())
