"""What Check makes of requests that may be answered from the cache."""

from dataclasses import replace
from typing import Any

import pytest

from evenflow.inference.v1 import inference_service_pb2 as pb
from evenflow.openai.v1 import chat_service_pb2 as openai_pb
from services.router.core.demands import WorkloadClass
from services.router.core.endings import Usage
from services.router.core.response_cache import Answer
from services.router.core.salts import CacheSalts, SaltSecret
from services.router.core.tenants import ClassRules, Tenant, Tenants
from services.router.inbound.answers import Answer as Answered
from services.router.inbound.asked import Question
from services.router.inbound.caching import Caching
from services.router.inbound.check import Check
from services.router.inbound.mesh import Mesh
from tests.unit.router.values import (
    LIMITS,
    A,
    B,
    check_request,
    framed,
    generate,
    mesh,
    model,
    state,
    tenant,
)

SALTS = CacheSalts(SaltSecret(b"0123456789abcdef"))
TTL_S = 600.0
STREAM = "/evenflow.openai.v1.ChatService/StreamChatCompletion"
CREATE = "/evenflow.openai.v1.ChatService/CreateChatCompletion"
BATCH, INTERACTIVE, HIGH_RISK = 2, 1, 3
GLOBEX = "spiffe://evenflow.local/tenant/globex/web"
ALL = frozenset(WorkloadClass)


class Router:
    """Checks, and takes what runtimes hand over."""

    def __init__(
        self, *tenants: Tenant, most_bytes: int = 1 << 20, salts: CacheSalts = SALTS
    ) -> None:
        rules = {WorkloadClass.BATCH: ClassRules(cache_ttl_s=TTL_S)}
        # A policy is not to be had that says so; the cache does not rely on it.
        rules[WorkloadClass.HIGH_RISK] = ClassRules(cache_ttl_s=TTL_S)
        of = mesh()
        known = tenants or (tenant(workload_classes=ALL),)
        self.caching = Caching(salts, most_bytes=most_bytes, default_ttl_s=300.0)
        of.policy.replaced(Tenants("v2", known, rules), 0.0)
        self.mesh: Mesh = replace(of, caching=self.caching)
        self.now_s = 10.0
        self._asked = 0

    def check(self, body: bytes, **question: Any) -> Answered:
        self._asked += 1
        self.mesh.policy.confirmed(self.now_s)
        asked = check_request(body, **{"x_request_id": f"r{self._asked}", **question})
        return self.checked(asked)

    def checked(self, question: Question) -> Answered:
        answer = Check(self.mesh, LIMITS, grace_s=5.0, clock=lambda: self.now_s)(question)
        assert isinstance(answer, Answered)
        return answer

    def key(self, body: bytes, **question: Any) -> str | None:
        """What the runtime is told to hand its answer over by."""
        named = dict(self.check(body, **question).headers).get("x-evenflow-cache-key")
        if named is None:
            return None
        router, _, key = named.partition(".")
        assert router == self.caching.router
        return key

    def answers(self, key: str | None, version: str = "1") -> bool:
        assert key is not None
        given = Answer(version, Usage(3, 0, 4), (b"text",))
        return self.caching.cache.keep(key, given, self.now_s)

    def is_hit(self, body: bytes, **question: Any) -> bool:
        headers = dict(self.check(body, **question).headers)
        return headers.get("x-evenflow-cached") == "hit"


def asking(**fields: Any) -> bytes:
    sampling = pb.Sampling(temperature=0)
    return generate(**{"sampling": sampling, "workload_class": BATCH, **fields})


def chat(message: Any = openai_pb.StreamChatCompletionRequest, **fields: Any) -> bytes:
    values = {"model": "small", "temperature": 0, "workload_class": "batch", **fields}
    completion = openai_pb.ChatCompletion(**values)
    completion.messages.add(role="user").content.string_value = "hello"
    return framed(message(completion=completion).SerializeToString())


def test_the_second_time_the_router_answers_itself() -> None:
    router = Router()
    assert router.answers(router.key(asking()))
    running = router.mesh.requests.running()

    answered = router.check(asking(), grpc_timeout="5S", x_request_id="second")

    assert dict(answered.headers) == {
        "x-evenflow-request-id": "second",
        "x-evenflow-tenant": "acme",
        "x-evenflow-workload": "web",
        "x-evenflow-cached": "hit",
        "x-envoy-upstream-rq-timeout-ms": "5000",
    }
    assert router.mesh.requests.running() == running, "it takes no slot"
    assert router.caching.replays.take("second").answer.usage == Usage(3, 0, 4)
    decision = router.mesh.requests.find("second").decision
    assert decision is not None
    assert (decision.cache, decision.workload_class) == ("hit", WorkloadClass.BATCH)
    assert router.caching.cache.outcomes == {"miss": 1, "hit": 1}


@pytest.mark.parametrize(
    "different",
    [
        asking(text="hello!"),
        asking(sampling=pb.Sampling(temperature=0, max_output_tokens=7)),
        asking(sampling=pb.Sampling(temperature=0, stop=["x"])),
        asking(sampling=pb.Sampling(temperature=0, logprobs=1)),
        framed(asking()[5:] + b"\xfa\x3f\x01x"),  # a field that we don't know
    ],
    ids=["prompt", "length", "stop", "logprobs", "unknown field"],
)
def test_another_request_has_another_key(different: bytes) -> None:
    router = Router()
    router.answers(router.key(asking()))

    assert router.key(different) not in (None, router.key(asking(text="other")))


def test_class_and_wish_are_no_part_of_the_answer() -> None:
    router = Router()
    router.answers(router.key(asking()))

    allowed = asking(workload_class=INTERACTIVE, response_cache=pb.RESPONSE_CACHE_ALLOW)
    assert router.is_hit(allowed)


def test_each_method_has_its_own_answers() -> None:
    router = Router()
    create = chat(openai_pb.CreateChatCompletionRequest)
    router.answers(router.key(chat(), path=STREAM))

    assert router.is_hit(chat(), path=STREAM)
    assert not router.is_hit(create, path=CREATE)


def test_maps_of_a_schema_are_the_same_in_any_order() -> None:
    router = Router()
    one, other = (openai_pb.ChatCompletion(), openai_pb.ChatCompletion())
    for of, names in ((one, "abcdefgh"), (other, "hgfedcba")):
        for name in names:
            of.response_format.json_schema.schema.fields[name].bool_value = True
    keys = {
        router.key(chat(response_format=of.response_format), path=STREAM) for of in (one, other)
    }

    assert len(keys) == 1


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        (asking(sampling=pb.Sampling()), "bypass"),
        (asking(sampling=pb.Sampling(seed=7)), "bypass"),
        (asking(sampling=pb.Sampling(temperature=0.01)), "bypass"),
        (asking(response_cache=pb.RESPONSE_CACHE_BYPASS), "bypass"),
        (asking(workload_class=HIGH_RISK, response_cache=pb.RESPONSE_CACHE_ALLOW), "bypass"),
        (asking(text="x" * (256 << 10)), "bypass"),
        (asking(workload_class=INTERACTIVE), ""),
        (asking(workload_class=0), ""),
    ],
    ids=["unset", "seed", "warm", "bypass", "high-risk", "large", "not opted in", "default class"],
)
def test_what_is_not_to_be_kept_has_no_key(body: bytes, outcome: str) -> None:
    router = Router()

    assert router.key(body) is None
    decision = router.mesh.requests.find("r1").decision
    assert decision is not None
    assert decision.cache == outcome


@pytest.mark.parametrize("wish", ["bypass", "allow"])
def test_openais_callers_say_it_in_words(wish: str) -> None:
    router = Router()
    body = chat(response_cache=wish, workload_class="interactive")

    assert (router.key(body, path=STREAM) is not None) is (wish == "allow")


@pytest.mark.parametrize(
    ("body", "path"), [(chat(response_cache="maybe"), STREAM), (asking(response_cache=9), None)]
)
def test_other_words_are_refused(body: bytes, path: str | None) -> None:
    answered = Router().check(body, **({"path": path} if path else {}))

    assert answered.status == 400
    assert dict(answered.headers)["x-evenflow-field"] == "response_cache"


def test_what_the_caller_allows_is_kept_for_as_long_as_the_router_says() -> None:
    router = Router()
    allowed = asking(workload_class=INTERACTIVE, response_cache=pb.RESPONSE_CACHE_ALLOW)
    router.answers(router.key(allowed))

    router.now_s += 299.0
    assert router.is_hit(allowed)
    router.now_s += 1.0
    assert not router.is_hit(allowed)


def test_tenants_and_their_limits_are_walls() -> None:
    globex = tenant(id="globex", spiffe_ids=(GLOBEX,), api_keys=(), workload_classes=ALL)
    acme = tenant(workload_classes=ALL)
    router = Router(acme, globex)
    ours = router.key(asking())
    router.answers(ours)

    assert router.key(asking(), peer=GLOBEX) not in (None, ours)
    rules = {WorkloadClass.BATCH: ClassRules(cache_ttl_s=TTL_S)}
    smaller = replace(acme, max_output_tokens=16)
    router.mesh.policy.replaced(Tenants("v3", [smaller, globex], rules), 0.0)
    assert not router.is_hit(asking())


def test_a_hit_needs_what_any_request_needs() -> None:
    router = Router()
    router.answers(router.key(asking()))

    late = router.check(asking(), grpc_timeout="0S")
    assert dict(late.headers)["x-evenflow-reason"] == "DEADLINE"
    forbidden = replace(tenant(), workload_classes=frozenset({WorkloadClass.INTERACTIVE}))
    rules = {WorkloadClass.BATCH: ClassRules(cache_ttl_s=TTL_S)}
    router.mesh.policy.replaced(Tenants("v3", [forbidden], rules), 0.0)
    refused = router.check(asking())
    assert dict(refused.headers)["x-evenflow-reason"] == "WORKLOAD_CLASS_NOT_ALLOWED"
    assert router.caching.cache.outcomes["hit"] == 0


def test_a_hit_needs_no_runtime_that_is_ready() -> None:
    router = Router()
    router.answers(router.key(asking()))
    for address in (A, B):
        router.mesh.endpoints.lost(address)

    assert router.is_hit(asking())


def test_a_version_that_no_runtime_serves_any_more_is_no_answer() -> None:
    router = Router()
    router.answers(router.key(asking()))
    router.mesh.endpoints.saw(A, state(model(version="2")))
    assert router.is_hit(asking()), "the other runtime still has it"

    router.mesh.endpoints.saw(B, state(model(version="2")))

    assert not router.is_hit(asking())
    assert router.answers(router.key(asking()), version="2")
    assert router.is_hit(asking())


def test_what_belongs_to_a_tenant_that_policy_drops_is_forgotten() -> None:
    router = Router()
    router.answers(router.key(asking()))
    nobody = Tenants("v3", [])

    router.caching.expire(nobody, router.now_s)

    assert (router.caching.cache.entries, router.caching.cache.bytes) == (0, 0)


def test_without_room_or_when_it_ends_nothing_is_asked_of_the_cache() -> None:
    off = Router(most_bytes=0)
    assert off.key(asking()) is None

    ending = Router()
    ending.answers(ending.key(asking()))
    ending.caching.stop()
    assert not ending.is_hit(asking())
    assert ending.key(asking()) is None


def test_a_new_secret_of_the_salts_empties_the_cache() -> None:
    salts = CacheSalts(SaltSecret(b"0123456789abcdef"))
    router = Router(salts=salts)
    router.answers(router.key(asking()))
    assert router.is_hit(asking())

    salts.replaced(SaltSecret(b"fedcba9876543210", epoch=1))

    assert not router.is_hit(asking())
