"""Prompts by name over the whole mesh, with a real Envoy: what only real processes can show."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import openai
import pytest

from evenflow.blocking import BlockingClient, prompt_request
from evenflow.connection import Connection
from evenflow.errors import EvenflowError, Refused
from evenflow.home import service_folder, service_name
from evenflow.inference.v1 import inference_service_pb2 as pb
from evenflow.policy.v1 import prompt_service_pb2 as policy_pb
from evenflow.policy.v1.prompt_service_pb2_grpc import PromptServiceStub
from tests.integration.cache.cached_mesh import BACK_WITHIN_S, CachedMesh, keeping_mesh
from tests.integration.whole.programs import until
from tests.unit.policy.registries import content, create, label

ROME = {"city": "Rome"}
HEADER = "x-evenflow-prompt"


@pytest.fixture(scope="module")
def named() -> Iterator[CachedMesh]:
    """Version 1 pins the model and is deterministic; 2 is another text."""
    with keeping_mesh() as mesh, registry(mesh) as operator:
        defaults = policy_pb.PromptDefaults(temperature=0.0, max_output_tokens=7)
        first = content("One: {{city}}", model="simulated", defaults=defaults)
        operator.CreatePromptVersion(create(content=first), timeout=10)
        second = content("Two: {{city}}", model="simulated", defaults=defaults)
        operator.CreatePromptVersion(create(content=second), timeout=10)
        operator.SetLabel(label((1, 100)), timeout=10)
        until(lambda: answers(mesh), within_s=BACK_WITHIN_S)
        yield mesh


@contextmanager
def registry(mesh: CachedMesh) -> Iterator[Any]:
    folder = service_folder(mesh.mesh.home, "operator")
    where = f"127.0.0.1:{mesh.mesh.ports('policy')[0]}"
    with Connection(where, folder, service_name("policy")).blocking_channel() as calls:
        yield PromptServiceStub(calls)


def answers(mesh: CachedMesh) -> bool:
    try:
        return bool(asked(mesh))
    except EvenflowError:
        return False


def asked(mesh: CachedMesh, *, tenant: str = "acme", **fields: Any) -> pb.Started:
    request = prompt_request("trip", ROME, **fields)
    folder = mesh.mesh.tenant(tenant)
    with BlockingClient(mesh.mesh.address, certificate_folder=folder) as client:
        events = list(client.generate(request, deadline_s=20))
    assert isinstance(events[0], pb.Started)
    return events[0]


@pytest.mark.parametrize("stream", [False, True])
def test_openais_own_client_names_a_prompt(named: CachedMesh, stream: bool) -> None:
    with named.openai() as client:
        raw: Any = client.chat.completions.with_raw_response.create(
            model="",
            messages=[],
            stream=stream,
            extra_body={"prompt": {"name": "trip", "version": 2, "variables": ROME}},
        )

        assert raw.headers[HEADER] == "trip@2"
        parsed = raw.parse()
        if stream:
            assert [each for each in parsed if each.choices]
        else:
            assert parsed.usage.completion_tokens <= 7


def test_openais_caller_is_told_what_is_wrong(named: CachedMesh) -> None:
    wrong: dict[str, Any] = {"name": "trip", "variables": {"city": 3}}
    with named.openai() as client, pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="", messages=[], extra_body={"prompt": wrong})
    assert (caught.value.code, caught.value.param) == ("FIELD_INVALID", "prompt.variables.city")

    with named.openai() as client, pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="", messages=[], extra_body={"prompt": {"name": "x"}})
    assert missing.value.code == "PROMPT_NOT_FOUND"


def test_a_forged_header_names_no_prompt(named: CachedMesh) -> None:
    forged = named.ask("plain", metadata=((HEADER, "trip@1"),))

    assert forged.started.prompt_version == 0
    assert HEADER not in forged.headers


def test_another_tenant_does_not_know_it(named: CachedMesh) -> None:
    with pytest.raises(Refused) as caught:
        asked(named, tenant="globex", model="simulated")

    assert caught.value.reason == "PROMPT_NOT_FOUND"


def test_operators_see_the_version(named: CachedMesh) -> None:
    started = asked(named)

    assert started.prompt_version == 1
    assert named.mesh.explain(started.request_id).prompt == "trip@1"


def test_versions_never_share_an_answer(named: CachedMesh) -> None:
    def told(version: int) -> pb.GenerateRequest:
        request = prompt_request("trip", ROME, version=version)
        request.response_cache = pb.RESPONSE_CACHE_ALLOW
        return request

    def asks(request: pb.GenerateRequest) -> tuple[bool, int, str]:
        with named.channel("acme") as calls:
            call = named.stub(calls).Generate(request, timeout=20)
            started = next(call).started
            list(call)
            headers = dict(call.initial_metadata())
            return started.cached, started.prompt_version, headers[HEADER]

    until(lambda: asks(told(1)) == (True, 1, "trip@1"))

    assert asks(told(2))[1:] == (2, "trip@2")


def test_without_policy_prompts_are_served_and_it_comes_back(named: CachedMesh) -> None:
    named.programs.kill("policy")

    assert asked(named).prompt_version == 1

    until(lambda: moved(named), within_s=BACK_WITHIN_S)
    until(lambda: asked(named).prompt_version == 2, within_s=BACK_WITHIN_S)


def moved(mesh: CachedMesh) -> bool:
    """Once policy is back."""
    try:
        with registry(mesh) as operator:
            operator.SetLabel(label((2, 100)), timeout=5)
    except grpc.RpcError:  # nobody listens
        return False
    return True
