"""Policies for tests: a short one by hand, and any valid one by Hypothesis, as files and values."""

import json
from dataclasses import asdict
from typing import Any

from hypothesis import strategies as st

from services.policy.core.reading import read_policy
from services.policy.core.tenants import (
    NO_LIMITS,
    ApiKey,
    Budget,
    Limits,
    Policy,
    Tenant,
    Unit,
    Window,
    WorkloadClass,
)
from services.policy.outbound.yaml_text import parse

DOMAIN = "evenflow.local"
HASH = "sha256:" + "ab" * 32
ACME = f"""\
tenants:
  - id: acme
    spiffe_ids: [spiffe://{DOMAIN}/tenant/acme/*]
    api_keys:
      - id: web-1
        hash: {HASH}
        workload: web
    models: [smollm2]
    workload_classes: [interactive, batch]
    default_workload_class: interactive
    max_context_tokens: 2048
    max_output_tokens: 512
"""
GLOBEX = f"""\
  - id: globex
    spiffe_ids: [spiffe://{DOMAIN}/tenant/globex/web]
    models: ["*"]
    workload_classes: [batch]
    default_workload_class: batch
"""


def policy_of(text: str) -> Policy:
    return read_policy(parse(text.encode()), DOMAIN, version="v1")


def tenants_of(text: str) -> list[Tenant]:
    return list(policy_of(text).tenants)


def tenant(name: str) -> Tenant:
    return Tenant(
        id=name,
        spiffe_ids=(f"spiffe://{DOMAIN}/tenant/{name}/*",),
        api_keys=(ApiKey("web-1", bytes(32), "web"),),
        models=("*",),
        workload_classes=(WorkloadClass.HIGH_RISK, WorkloadClass.BATCH),
        default_workload_class=WorkloadClass.BATCH,
        max_context_tokens=2048,
        max_output_tokens=0,
        weight=3,
        pool="vault",
        limits=Limits(
            requests_per_minute=60,
            tokens_per_minute=100_000,
            concurrent_requests=8,
            kv_share=0.25,
        ),
    )


def policy(version: str, *names: str) -> Policy:
    return Policy(version, [tenant(name) for name in names])


def as_fields(each: Tenant) -> dict[str, Any]:
    """What a file says about a tenant, optional fields left out where they say nothing."""
    found: dict[str, Any] = {
        "id": each.id,
        "spiffe_ids": list(each.spiffe_ids),
        "api_keys": [
            {"id": key.id, "hash": f"sha256:{key.sha256.hex()}", "workload": key.workload}
            for key in each.api_keys
        ],
        "models": list(each.models),
        "workload_classes": [one.value for one in each.workload_classes],
        "default_workload_class": each.default_workload_class.value,
        "max_context_tokens": each.max_context_tokens,
        "max_output_tokens": each.max_output_tokens,
        "weight": each.weight,
        "pool": each.pool,
        "limits": {name: value for name, value in asdict(each.limits).items() if value},
        "budgets": [_budget_fields(one) for one in each.budgets],
    }
    return {name: value for name, value in found.items() if value}


def _budget_fields(each: Budget) -> dict[str, Any]:
    found = {
        "id": each.id,
        "window": each.window.value,
        "tokens": each.limit,
        "hard": each.hard,
        "workload": each.workload,
        "low_share": each.low_share,
    }
    return {name: value for name, value in found.items() if value != ""}


def one_a_line(tenants: list[dict[str, Any]]) -> str:
    """A file whose every field stands on a line of its own, as `lines_of` counts them."""
    lines = ["tenants:"]
    for fields in tenants:
        start = "  - "
        for name, value in fields.items():
            lines.append(f"{start}{json.dumps(name)}: {json.dumps(value)}")
            start = "    "
    return "\n".join(lines) + "\n"


_names = st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True)
_limits = st.just(NO_LIMITS) | st.builds(
    Limits,
    requests_per_minute=st.integers(0, 10**9),
    tokens_per_minute=st.integers(0, 10**12),
    concurrent_requests=st.integers(0, 10**9),
    kv_share=st.sampled_from([0.0, 0.001, 0.25, 1.0]),
)
_classes = st.lists(st.sampled_from(WorkloadClass), min_size=1, unique=True)


@st.composite
def _budgets(draw: st.DrawFn) -> tuple[Budget, ...]:
    names = draw(st.lists(_names, max_size=2, unique=True))
    return tuple(
        Budget(
            id=name,
            unit=Unit.TOKENS,
            window=draw(st.sampled_from(Window)),
            limit=draw(st.integers(1, 10**15)),
            hard=draw(st.booleans()),
            workload=draw(st.just("") | _names),
            low_share=draw(st.sampled_from([0.0, 0.05, 0.1, 1.0])),
        )
        for name in names
    )


@st.composite
def tenant_lists(draw: st.DrawFn) -> list[Tenant]:
    """Valid together: nobody shares an identity."""
    names = draw(st.lists(_names, min_size=1, max_size=4, unique=True))
    return [draw(_tenants(name, index)) for index, name in enumerate(names)]


@st.composite
def _tenants(draw: st.DrawFn, name: str, index: int) -> Tenant:
    workloads = draw(st.lists(_names | st.just("*"), min_size=1, max_size=3, unique=True))
    keys = draw(st.lists(_names, max_size=2, unique=True))
    classes = draw(_classes)
    context = draw(st.integers(0, 10_000))
    return Tenant(
        id=name,
        spiffe_ids=tuple(f"spiffe://{DOMAIN}/tenant/{name}/{each}" for each in workloads),
        api_keys=tuple(
            ApiKey(key, bytes([index, number]) * 16, draw(_names))
            for number, key in enumerate(keys)
        ),
        models=tuple(draw(st.just(["*"]) | st.lists(_names, min_size=1, unique=True))),
        workload_classes=tuple(classes),
        default_workload_class=draw(st.sampled_from(classes)),
        max_context_tokens=context,
        max_output_tokens=draw(st.integers(0, context or 10_000)),
        weight=draw(st.integers(1, 100)),
        pool=draw(st.just("") | _names),
        limits=draw(_limits),
        budgets=draw(_budgets()),
    )
