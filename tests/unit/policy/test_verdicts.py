"""The dry run's decision is the router's own, for any policy and any request."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.policy.core.dry_run import MOST_EXAMPLES, MOST_KINDS, Kind, dry_run
from services.policy.core.tenants import ApiKey, Policy, Tenant, WorkloadClass
from services.policy.core.verdicts import ADMITTED, Judge, RecordedDecision
from services.policy.inbound.tenants import encode
from services.router.core.admission import never
from services.router.core.demands import Demand, Output, Prompt
from services.router.core.demands import WorkloadClass as RoutersClass
from services.router.core.endpoints import Endpoints
from services.router.core.tenants import Tenants
from services.router.outbound.policy import word_of
from tests.unit.policy.policies import DOMAIN, tenant
from tests.unit.router.values import A, model, pool, state

_models = st.sampled_from(["small", "large"])
_workloads = st.sampled_from(["web", "jobs"])
_tokens = st.integers(0, 4)
_classes = st.lists(st.sampled_from(WorkloadClass), min_size=1, unique=True)


def key(of: str) -> str:
    return f"secret-{of}"


@st.composite
def tenants(draw: st.DrawFn, name: str) -> Tenant:
    classes = draw(_classes)
    workloads = draw(st.lists(_workloads | st.just("*"), max_size=2, unique=True))
    keys = draw(st.lists(_workloads, max_size=2, unique=True))
    return Tenant(
        id=name,
        spiffe_ids=tuple(f"spiffe://{DOMAIN}/tenant/{name}/{each}" for each in workloads),
        api_keys=tuple(
            ApiKey(each, hashlib.sha256(key(f"{name}-{each}").encode()).digest(), each)
            for each in keys
        ),
        models=tuple(draw(st.just(["*"]) | st.lists(_models, min_size=1, unique=True))),
        workload_classes=tuple(classes),
        default_workload_class=draw(st.sampled_from(classes)),
        max_context_tokens=draw(_tokens),
        max_output_tokens=draw(_tokens),
    )


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    names = draw(st.lists(st.sampled_from(["acme", "globex"]), unique=True))
    return Policy("v1", [draw(tenants(each)) for each in names])


@st.composite
def decisions(draw: st.DrawFn) -> RecordedDecision:
    name, workload = draw(st.sampled_from(["acme", "globex"])), draw(_workloads)
    by_key = draw(st.booleans())
    return RecordedDecision(
        request_id="r-1",
        unix_s=1.0,
        spiffe_id="" if by_key else f"spiffe://{DOMAIN}/tenant/{name}/{workload}",
        key_id=workload if by_key else "",
        tenant=name,
        workload=workload,
        model=draw(_models),
        workload_class=draw(
            st.just("") | st.sampled_from(WorkloadClass).map(lambda one: one.value)
        ),
        prompt_tokens=draw(st.integers(1, 4)),
        exact=draw(st.booleans()),
        output_tokens=draw(st.none() | st.integers(1, 4)),
    )


def known_endpoints() -> Endpoints:
    known = Endpoints([A])
    known.saw(A, state(model(model="small"), model(model="large")))
    return known


def by_the_router(policy: Policy, decision: RecordedDecision) -> str:
    word = word_of(encode(policy), again=False)
    known = Tenants("v1", word.tenants or ())
    secret = key(f"{decision.tenant}-{decision.key_id}")
    caller = (
        known.by_spiffe_id(decision.spiffe_id) if decision.spiffe_id else known.by_api_key(secret)
    )
    if caller is None:
        return "UNKNOWN_IDENTITY"
    asked = decision.workload_class
    demand = Demand(
        decision.model,
        RoutersClass(asked) if asked else None,
        Prompt(decision.prompt_tokens, decision.exact),
        Output(decision.output_tokens, "max_output_tokens"),
    )
    refused = never(demand, caller.tenant, pool(known_endpoints()), remaining_s=None)
    return refused.reason.value if refused else ADMITTED


@given(policies(), policies(), decisions())
def test_it_says_what_the_router_says(
    live: Policy, new: Policy, decision: RecordedDecision
) -> None:
    # A key that is in no file is its tenant's, so only those that the live policy has are compared.
    keys = {(each.id, one.id) for each in live.tenants for one in each.api_keys}
    known = bool(decision.spiffe_id) or (decision.tenant, decision.key_id) in keys
    decision = replace(decision, outcome=by_the_router(live, decision))

    if known:
        assert Judge(new, live).would(decision) == by_the_router(new, decision)
        assert Judge(live, live).would(decision) == decision.outcome


ACME = replace(tenant("acme"), models=("small",), api_keys=())
POLICY = Policy("v1", [ACME])
WEB = RecordedDecision(
    request_id="r-1",
    unix_s=1.0,
    spiffe_id=f"spiffe://{DOMAIN}/tenant/acme/web",
    tenant="acme",
    model="small",
    workload_class="batch",
)


@pytest.mark.parametrize(
    "outcome", ["QUEUE_FULL", "NO_ENDPOINT", "DEADLINE", "BUDGET_SPENT", "CERTIFICATE_REVOKED"]
)
def test_what_no_policy_decides_stays_as_it_was(outcome: str) -> None:
    assert Judge(POLICY, POLICY).would(replace(WEB, outcome=outcome)) == outcome


def test_a_refusal_that_the_new_policy_has_not_is_an_admission() -> None:
    recorded = replace(WEB, outcome="MODEL_NOT_ALLOWED")

    assert Judge(POLICY, POLICY).would(recorded) == ADMITTED


def test_a_certificate_does_not_speak_for_a_pattern() -> None:
    recorded = replace(WEB, spiffe_id=f"spiffe://{DOMAIN}/tenant/acme/*")

    assert Judge(POLICY, POLICY).would(recorded) == "UNKNOWN_IDENTITY"


def test_a_key_of_another_hash_is_another_key() -> None:
    with_key = replace(ACME, api_keys=(ApiKey("web-1", bytes(32), "web"),))
    other_key = replace(ACME, api_keys=(ApiKey("web-1", b"\x01" * 32, "web"),))
    recorded = replace(WEB, spiffe_id="", key_id="web-1")
    live = Policy("v1", [with_key])

    assert Judge(Policy("v2", [other_key]), live).would(recorded) == "UNKNOWN_IDENTITY"
    assert Judge(live, live).would(recorded) == ADMITTED


def test_a_key_that_no_file_has_is_its_tenants() -> None:
    recorded = replace(WEB, spiffe_id="", key_id="made-by-policy")

    assert Judge(POLICY, POLICY).would(recorded) == ADMITTED
    assert Judge(Policy("v2", []), POLICY).would(recorded) == "UNKNOWN_IDENTITY"


def endless(**changes: str) -> Iterator[RecordedDecision]:
    while True:
        yield replace(WEB, **changes)  # type: ignore[arg-type]


def after(looks: int) -> Callable[[], bool]:
    left = iter(range(looks))
    return lambda: next(left, None) is None


def test_a_dry_run_counts_who_would_be_refused_and_shows_some() -> None:
    asked = [
        replace(WEB, request_id=f"r-{n}", model="large" if n % 2 else "small") for n in range(40)
    ]

    outcome = dry_run(Judge(POLICY, POLICY), iter(asked), time_is_up=after(9))

    kind = Kind(ADMITTED, "MODEL_NOT_ALLOWED", "acme")
    assert (outcome.judged, outcome.different) == (40, 20)
    assert outcome.most_frequent() == [(kind, 20)]
    assert outcome.examples[kind] == ["r-1", "r-3", "r-5", "r-7", "r-9"]
    assert len(outcome.examples[kind]) == MOST_EXAMPLES


def test_a_dry_run_ends_when_its_time_is_up() -> None:
    outcome = dry_run(Judge(POLICY, POLICY), endless(), time_is_up=after(3))

    assert outcome.cut_short
    assert outcome.judged == 4_000


def test_a_dry_run_tells_so_many_kinds_apart_and_counts_all() -> None:
    asked = [replace(WEB, tenant=f"t{n}", model="large") for n in range(2 * MOST_KINDS)]

    outcome = dry_run(Judge(POLICY, POLICY), iter(asked), time_is_up=after(9))

    assert outcome.different == 2 * MOST_KINDS
    assert len(outcome.otherwise) == MOST_KINDS + 1
