"""Values that the router's tests start from; each test says what is different about its own."""

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from evenflow.inference.v1 import inference_service_pb2 as inference_pb
from services.router.core.admission import Pool, TimeLimits, class_of, never, place
from services.router.core.attempts import LostAttempt
from services.router.core.circuits import Circuits
from services.router.core.demands import Demand, Output, Prompt, WorkloadClass
from services.router.core.endings import Ended, Usage
from services.router.core.endpoints import Endpoints, ModelState, Readiness, RuntimeState
from services.router.core.inflight import Slot
from services.router.core.ladder import Climb
from services.router.core.lanes import Lane
from services.router.core.picking import Filter, Picker
from services.router.core.requests import Decision, Requests
from services.router.core.salts import CacheSalts, SaltSecret
from services.router.core.tenants import (
    ApiKey,
    ClassRules,
    PolicyView,
    Tenant,
    Tenants,
)
from services.router.core.verdicts import Admitted, Refused
from services.router.inbound.answers import Answer
from services.router.inbound.asked import Question
from services.router.inbound.lessons import Lessons
from services.router.inbound.line import Held
from services.router.inbound.mesh import Mesh

GENERATE = "/evenflow.inference.v1.InferenceService/Generate"
A, B = "127.0.0.1:9101", "127.0.0.1:9102"
SMALL = Lane("small")
WEB = "spiffe://evenflow.local/tenant/acme/web"
KEY = "ef-acme-secret"
KEY_SHA256 = hashlib.sha256(KEY.encode()).digest()
LIMITS = TimeLimits(
    default_s={
        WorkloadClass.INTERACTIVE: 60.0,
        WorkloadClass.BATCH: 600.0,
        WorkloadClass.HIGH_RISK: 60.0,
    },
    longest_s=3600.0,
)


def tenant(**changes: Any) -> Tenant:
    values: dict[str, Any] = {
        "id": "acme",
        "spiffe_ids": ("spiffe://evenflow.local/tenant/acme/*",),
        "api_keys": (ApiKey(KEY_SHA256, "web"),),
        "models": frozenset({"small"}),
        "workload_classes": frozenset({WorkloadClass.INTERACTIVE, WorkloadClass.BATCH}),
        "default_workload_class": WorkloadClass.INTERACTIVE,
        "max_context_tokens": 4096,
        "max_output_tokens": 1024,
    }
    return Tenant(**{**values, **changes})


def demand(**changes: Any) -> Demand:
    values: dict[str, Any] = {
        "model": "small",
        "workload_class": None,
        "prompt": Prompt(10, exact=False),
        "output": Output(100, "sampling.max_output_tokens"),
    }
    return Demand(**{**values, **changes})


def model(**changes: Any) -> ModelState:
    values: dict[str, Any] = {
        "model": "small",
        "version": "1",
        "readiness": Readiness.READY,
        "max_context_tokens": 8192,
    }
    return ModelState(**{**values, **changes})


def state(*models: ModelState, **changes: Any) -> RuntimeState:
    values: dict[str, Any] = {"instance_id": "first", "engine": "simulated"}
    return RuntimeState(**{**values, **changes}, models=models or (model(),))


def endpoints(*addresses: str) -> Endpoints:
    known = Endpoints(addresses)
    for address in addresses:
        known.saw(address, state())
    return known


def picker(known: Endpoints, requests: Requests | None = None, *filters: Filter) -> Picker:
    whose = requests or Requests()
    return Picker(
        known,
        whose.in_flight,
        whose.expectations,
        weights=whose.weights,
        filters=filters,
    )


def pool(known: Endpoints, requests: Requests | None = None, *filters: Filter) -> Pool:
    return Pool(picker(known, requests, *filters), now_s=0.0, salt="salt of acme")


def decided(
    asked: Demand, whose: Tenant, where: Pool, remaining_s: float | None = None
) -> Admitted | Refused:
    """As Check does where nobody has to wait and no class has a ladder."""
    refused = never(asked, whose, where, remaining_s=remaining_s)
    timeout_s = LIMITS.of(class_of(asked, whose), remaining_s)
    return refused or place(Climb(asked), whose, where, timeout_s=timeout_s)


def busy(tokens: Mapping[str, int]) -> Requests:
    """One request of so many prompt tokens under way at each address."""
    requests = Requests()
    for address, number in tokens.items():
        slot = Slot(address, number, expires_at_s=1e9, prefill_tokens=number)
        requests.admit(decision(f"at {address}"), slot)
    return requests


def mesh(
    *tenants: Tenant,
    now_s: float = 0.0,
    classes: Mapping[WorkloadClass, ClassRules] = MappingProxyType({}),
) -> Mesh:
    view = PolicyView(stale_after_s=300.0)
    view.replaced(Tenants("v1", tenants or (tenant(),), classes), now_s)
    return Mesh(
        view, endpoints(A, B), Requests(), CacheSalts(SaltSecret(b"0123456789abcdef")), Circuits()
    )


def headers_of(answer: Answer | Held) -> Mapping[str, str]:
    """Of one that did not have to wait."""
    assert isinstance(answer, Answer)
    return dict(answer.headers)


def lessons(of: Mesh) -> Lessons:
    return Lessons(of.circuits, of.outliers, of.hedging, of.experience)


def decision(request_id: str = "r1", **changes: Any) -> Decision:
    values: dict[str, Any] = {"method": GENERATE, "received_unix_s": 1.0, "tenant": "acme"}
    return Decision(request_id=request_id, **{**values, **changes})


def ended(request_id: str = "r1", **changes: Any) -> Ended:
    values: dict[str, Any] = {
        "method": GENERATE,
        "tenant": "",
        "began_unix_s": 1.0,
        "duration_s": 0.5,
        "first_token_s": 0.1,
        "endpoint": A,
        "grpc_code": 0,
        "reason": "",
        "usage": Usage(10, 0, 20),
        "model_version": "1",
        "engine": "simulated",
        "attempts": 1,
    }
    return Ended(request_id, **{**values, **changes})


def lost(request_id: str = "r1", **changes: Any) -> LostAttempt:
    values: dict[str, Any] = {
        "number": 1,
        "tenant": "acme",
        "endpoint": A,
        "model_version": "1",
        "usage": Usage(10, 4, 7),
        "has_begun": True,
    }
    return LostAttempt(request_id, **{**values, **changes})


def framed(message: bytes) -> bytes:
    return struct.pack(">BI", 0, len(message)) + message


def generate(**fields: Any) -> bytes:
    return framed(
        inference_pb.GenerateRequest(
            **{"model": "small", "text": "hello", **fields}
        ).SerializeToString()
    )


def check_request(
    body: bytes | None = None, *, path: str = GENERATE, peer: str = WEB, **headers: str
) -> Question:
    """As Envoy asks on the mesh listener; `on_front_end` turns it into the other one's."""
    said = {
        "x-evenflow-listener": "mesh",
        "x-evenflow-peer": peer,
        "x-evenflow-received": "1000.000000",
        "x-request-id": "r1",
    }
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Question(path, {**said, **named}, generate() if body is None else body)


def on_front_end(question: Question, key: str | None = KEY) -> Question:
    headers = {**question.headers, "x-evenflow-listener": "frontend"}
    del headers["x-evenflow-peer"]
    bearer = {} if key is None else {"authorization": f"Bearer {key}"}
    return replace(question, headers={**headers, **bearer})
