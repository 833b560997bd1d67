"""The wall around a pool: who has one never leaves it, who has none never enters one."""

import pytest

from services.router.core.endpoints import OUTSIDE, Endpoints
from services.router.core.models import Catalogue, ModelNotFound
from services.router.core.tenants import Tenant
from services.router.core.verdicts import Admitted, Reason, Refused
from services.router.inbound.check import Check
from tests.unit.router.values import (
    LIMITS,
    A,
    B,
    check_request,
    decided,
    demand,
    ended,
    endpoints,
    generate,
    headers_of,
    mesh,
    model,
    pool,
    state,
    tenant,
)

VAULTED = tenant(pool="vault")


def known(*, vault: str = B) -> Endpoints:
    """A is shared, B is in a pool."""
    both = endpoints(A, B)
    both.saw(B, state(pool=vault))
    return both


def verdict(of: Tenant, there: Endpoints) -> Admitted | Refused:
    return decided(demand(), of, pool(there))


def addresses(of: Tenant, there: Endpoints) -> list[str]:
    admitted = verdict(of, there)
    assert isinstance(admitted, Admitted)
    return [*admitted.endpoints]


def test_each_tenant_goes_to_its_own_pool_only() -> None:
    there = known(vault="vault")

    assert addresses(tenant(), there) == [A]
    assert addresses(VAULTED, there) == [B]


@pytest.mark.parametrize("name", ["other", "Vault", "vault ", "*", "vault2", "vaul"])
def test_another_pools_name_opens_no_wall(name: str) -> None:
    refused = verdict(tenant(pool=name), known(vault="vault"))

    assert isinstance(refused, Refused)
    assert (refused.reason, refused.retry_after_s) == (Reason.NO_ENDPOINT, 1.0)
    assert {each.left_out for each in refused.candidates} == {OUTSIDE}


@pytest.mark.parametrize("away", [A, B])
def test_a_pool_that_is_away_is_replaced_by_no_other(away: str) -> None:
    there = known(vault="vault")
    there.lost(away)
    whose = VAULTED if away == B else tenant()

    refused = verdict(whose, there)
    assert isinstance(refused, Refused)
    assert refused.reason is Reason.NO_ENDPOINT


def test_what_drains_outside_is_no_reason_to_come_back() -> None:
    there = known(vault="vault")
    there.drain(A)
    there.lost(B)

    refused = verdict(VAULTED, there)
    assert isinstance(refused, Refused)
    assert refused.reason is Reason.NO_ENDPOINT


def test_models_of_another_pool_are_not_listed() -> None:
    there = known(vault="vault")
    there.saw(B, state(model(model="secret"), pool="vault"))
    everything = tenant(models=frozenset({"*"}))
    catalogue = Catalogue()

    assert [each.name for each in catalogue.served_to(everything, there.all())] == ["small"]
    vaulted = tenant(models=frozenset({"*"}), pool="vault")
    assert [each.name for each in catalogue.served_to(vaulted, there.all())] == ["secret"]
    with pytest.raises(ModelNotFound):
        catalogue.get("secret", everything, there.all())


def test_the_runtime_and_envoy_are_told_the_pool_and_only_of_one() -> None:
    of = mesh(VAULTED)
    of.endpoints.saw(B, state(pool="vault"))
    check = Check(of, LIMITS, grace_s=5.0, clock=lambda: 10.0)

    headers = headers_of(check(check_request()))
    assert (headers["x-evenflow-pool"], headers["x-evenflow-endpoints"]) == (
        "vault",
        f"{B},{B},{B}",
    )
    shared = Check(mesh(), LIMITS, grace_s=5.0, clock=lambda: 10.0)
    assert "x-evenflow-pool" not in headers_of(shared(check_request()))


def test_equal_prompts_attract_only_those_of_the_same_tenant() -> None:
    of = mesh(
        tenant(),
        tenant(id="globex", spiffe_ids=("spiffe://evenflow.local/tenant/globex/*",), api_keys=()),
    )
    for address in (A, B):
        of.requests.expectations.resize(address, kv_tokens=10_000)
    check = Check(of, LIMITS, grace_s=5.0, clock=lambda: 10.0)
    body = long_prompt()

    def cached(request_id: str, **changes: str) -> int:
        check(check_request(body, x_request_id=request_id, **changes))
        decision = of.requests.find(request_id).decision
        assert decision is not None
        of.requests.end(ended(request_id))
        return decision.expected_cached_tokens

    assert cached("first") == 0
    assert cached("again") > 500
    assert cached("others", peer="spiffe://evenflow.local/tenant/globex/web") == 0


def long_prompt() -> bytes:
    return generate(text="all that was said before " * 100)
