"""What Check makes of requests that name a prompt."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from evenflow.inference.v1 import inference_service_pb2 as pb
from evenflow.openai.v1 import chat_service_pb2 as openai_pb
from services.router.core.demands import WorkloadClass
from services.router.core.prompts import Kind, Registered, Variable, Version
from services.router.core.requests import Decision
from services.router.core.salts import CacheSalts, SaltSecret
from services.router.core.tenants import ClassRules, Tenants
from services.router.inbound.access_log import write_line
from services.router.inbound.answers import Answer
from services.router.inbound.caching import Caching
from services.router.inbound.check import Check
from services.router.inbound.mesh import Mesh
from services.router.inbound.operator import explained
from services.router.outbound.records import Record, message
from tests.unit.router.values import LIMITS, check_request, ended, framed, mesh, tenant

STREAM = "/evenflow.openai.v1.ChatService/StreamChatCompletion"
GLOBEX = "spiffe://evenflow.local/tenant/globex/web"
CITY = {"city": Variable(Kind.STRING, required=True, uses=1, max_length=10)}
RULES = ClassRules(resume=True, cache_ttl_s=600.0)


class Router:
    """Knows the prompt `trip` of acme: version 1, and 2 which pins a model and has defaults."""

    def __init__(self) -> None:
        globex = tenant(
            id="globex", spiffe_ids=("spiffe://evenflow.local/tenant/globex/*",), api_keys=()
        )
        salts = CacheSalts(SaltSecret(b"0123456789abcdef"))
        caching = Caching(salts, most_bytes=1 << 20, default_ttl_s=300.0)
        self.mesh: Mesh = replace(mesh(), caching=caching)
        tenants = Tenants("v2", (tenant(), globex), {WorkloadClass.INTERACTIVE: RULES})
        self.mesh.policy.replaced(tenants, 0.0)
        self.known = self.mesh.prompts.registered = Registered()
        self.known.add("acme", "trip", Version(1, text_bytes=4000, variables=CITY))
        pinned = Version(2, 4000, variables=CITY, model="small", output_tokens=33, temperature=0.0)
        self.known.add("acme", "trip", pinned)
        self.point((1, 100))
        self._asked = 0

    def point(self, *shares: tuple[int, int], label: str = "production") -> None:
        self.known.point(("acme", "trip", label), shares)

    def check(self, body: bytes, **question: Any) -> Answer:
        self._asked += 1
        asked = check_request(body, **{"x_request_id": f"r{self._asked}", **question})
        answer = Check(self.mesh, LIMITS, grace_s=5.0, clock=lambda: 10.0)(asked)
        assert isinstance(answer, Answer)
        return answer

    def headers(self, body: bytes, **question: Any) -> Mapping[str, str]:
        return dict(self.check(body, **question).headers)

    def decision(self) -> Decision:
        found = self.mesh.requests.find(f"r{self._asked}").decision
        assert found is not None
        return found


def trip(model: str = "small", **fields: Any) -> pb.GenerateRequest:
    values = {"name": "trip", **fields}
    variables = values.pop("variables", {"city": "Rome"})
    prompt = pb.PromptInput(**values)
    prompt.variables.update(variables)
    return pb.GenerateRequest(model=model, prompt=prompt)


def generate(model: str = "small", **fields: Any) -> bytes:
    return framed(trip(model, **fields).SerializeToString())


def chat(model: str = "small", **fields: Any) -> bytes:
    prompt = openai_pb.NamedPrompt(**{"name": "trip", **fields})
    prompt.variables.update({"city": "Rome"})
    completion = openai_pb.ChatCompletion(model=model, prompt=prompt)
    request = openai_pb.StreamChatCompletionRequest(completion=completion)
    return framed(request.SerializeToString())


@pytest.mark.parametrize("asks", [{"body": generate()}, {"body": chat(), "path": STREAM}])
def test_the_runtime_is_told_the_version(asks: dict[str, Any]) -> None:
    router = Router()

    headers = router.headers(**asks)

    assert headers["x-evenflow-prompt"] == "trip@1"
    assert router.decision().prompt == "trip@1"
    assert router.decision().estimate > 1000, "of the template's bytes"


@pytest.mark.parametrize(
    "asks",
    [{"body": generate("", version=2)}, {"body": chat("", version=2), "path": STREAM}],
)
def test_a_version_says_what_the_request_does_not(asks: dict[str, Any]) -> None:
    router = Router()

    router.headers(**asks)

    assert (router.decision().model, router.decision().output_tokens) == ("small", 33)


def test_who_names_none_is_told_of_none() -> None:
    router = Router()

    assert "x-evenflow-prompt" not in router.headers(
        framed(pb.GenerateRequest(model="small", text="hello").SerializeToString())
    )


@pytest.mark.parametrize(
    ("body", "reason", "field"),
    [
        (generate(name="walk"), "PROMPT_NOT_FOUND", "prompt.name"),
        (generate(label="canary"), "PROMPT_NOT_FOUND", "prompt.label"),
        (generate(version=3), "PROMPT_NOT_FOUND", "prompt.version"),
        (generate(name=""), "FIELD_INVALID", "prompt.name"),
        (generate(version=0), "FIELD_INVALID", "prompt.version"),
        (generate(label=""), "FIELD_INVALID", "prompt.label"),
        (generate(variables={}), "FIELD_INVALID", "prompt.variables.city"),
        (generate(variables={"city": 7}), "FIELD_INVALID", "prompt.variables.city"),
        (generate(variables={"city": ["Rome"]}), "FIELD_INVALID", "prompt.variables.city"),
        (generate(variables={"city": "x" * 11}), "FIELD_INVALID", "prompt.variables.city"),
        (generate(variables={str(at): 1 for at in range(65)}), "FIELD_INVALID", "prompt.variables"),
        (generate("large", version=2), "FIELD_INVALID", "model"),
        (generate(""), "FIELD_INVALID", "model"),
    ],
)
def test_a_refusal_names_what_to_mend(body: bytes, reason: str, field: str) -> None:
    headers = Router().headers(body)

    assert (headers["x-evenflow-reason"], headers["x-evenflow-field"]) == (reason, field)


def test_another_tenants_prompt_is_unknown() -> None:
    headers = Router().headers(generate(), peer=GLOBEX)

    assert headers["x-evenflow-reason"] == "PROMPT_NOT_FOUND"


def test_a_router_that_has_heard_of_none_says_come_back() -> None:
    router = Router()
    router.mesh.prompts.registered = None

    headers = router.headers(generate())

    assert (headers["x-evenflow-reason"], headers["retry-after"]) == ("POLICY_STALE", "1")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"version": 1}, {"version": 1}, True),
        ({"version": 1}, {"label": "production"}, True),
        ({"sticky": "a"}, {"sticky": "b"}, True),
        ({"version": 1}, {"version": 2}, False),
        ({}, {"label": "canary"}, False),
        ({}, {"variables": {"city": "Oslo"}}, False),
        ({}, {"messages": [pb.ChatMessage(role=pb.ROLE_USER, content="more")]}, False),
    ],
)
def test_answers_are_kept_by_version_and_variables(
    one: dict[str, Any], other: dict[str, Any], *, same: bool
) -> None:
    router = Router()
    router.point((2, 100), label="canary")

    keys = []
    for fields in (one, other):
        request = trip(**fields)
        request.sampling.temperature = 0
        headers = router.headers(framed(request.SerializeToString()))
        keys.append(headers["x-evenflow-cache-key"])

    assert (keys[0] == keys[1]) is same


def test_a_versions_temperature_decides_whether_an_answer_is_kept() -> None:
    router = Router()

    assert "x-evenflow-cache-key" not in router.headers(generate(version=1))
    assert "x-evenflow-cache-key" in router.headers(generate(version=2))


def test_a_resumption_has_to_name_its_version() -> None:
    request = trip(label="production")
    request.resume.token_ids.extend([1, 2])
    router = Router()

    refused = router.headers(framed(request.SerializeToString()))
    request.prompt.version = 1
    carried_on = router.headers(framed(request.SerializeToString()))

    assert refused["x-evenflow-field"] == "prompt.version"
    assert carried_on["x-evenflow-prompt"] == "trip@1"


def test_a_request_is_of_the_version_before_a_move_or_after_it() -> None:
    router = Router()
    router.point((1, 50), (2, 50))
    said = [router.headers(generate(sticky=f"c{at}"))["x-evenflow-prompt"] for at in range(50)]
    router.point((2, 100))

    assert set(said) == {"trip@1", "trip@2"}
    assert router.headers(generate(sticky="c1"))["x-evenflow-prompt"] == "trip@2"


def test_the_version_is_told_to_operators_telemetry_and_the_log(
    capsys: pytest.CaptureFixture[str],
) -> None:
    router = Router()
    router.headers(generate())
    request = router.mesh.requests.end(ended("r1"))
    assert request is not None

    write_line(request, ended("r1"))

    assert explained("r1", request).prompt == "trip@1"
    assert message(Record(request, ended("r1"))).prompt == "trip@1"
    assert "trip@1" in capsys.readouterr().out
