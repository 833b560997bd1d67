import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.core.tenants import (
    ApiKey,
    InvalidSnapshot,
    PolicyView,
    Tenants,
)
from tests.unit.router.values import KEY, WEB, tenant

GLOBEX = tenant(id="globex", spiffe_ids=("spiffe://evenflow.local/tenant/globex/web",), api_keys=())
BOTH = Tenants("v1", (tenant(), GLOBEX))
segment = st.sampled_from(["tenant", "acme", "globex", "web", "*", "", "..", "service"])


def owner(spiffe_id: str) -> tuple[str, str] | None:
    caller = BOTH.by_spiffe_id(spiffe_id)
    return (caller.tenant.id, caller.workload) if caller else None


def test_a_pattern_takes_any_last_segment_as_the_workload() -> None:
    assert owner(WEB) == ("acme", "web")


def test_an_exact_id_takes_no_other_workload() -> None:
    assert owner("spiffe://evenflow.local/tenant/globex/web") == ("globex", "web")
    assert owner("spiffe://evenflow.local/tenant/globex/batch") is None


@pytest.mark.parametrize(
    "spiffe_id",
    [
        "",
        "spiffe://evenflow.local/tenant/acme",
        "spiffe://evenflow.local/tenant/acme/",
        "spiffe://evenflow.local/tenant/acme/*",
        "spiffe://evenflow.local/tenant/acme/web/deeper",
        "spiffe://elsewhere.local/tenant/acme/web",
        "spiffe://evenflow.local/service/gateway",
    ],
)
def test_who_is_not_named_is_nobody(spiffe_id: str) -> None:
    assert owner(spiffe_id) is None


@given(st.lists(segment, max_size=5).map("/".join))
def test_no_id_reaches_a_tenant_whose_folder_it_is_not_in(path: str) -> None:
    found = owner(f"spiffe://evenflow.local/{path}")

    assert found is None or path == f"tenant/{found[0]}/{found[1]}"


def test_a_key_stands_for_its_tenant_and_workload() -> None:
    caller = BOTH.by_api_key(KEY)

    assert caller is not None
    assert (caller.tenant.id, caller.workload) == ("acme", "web")


@pytest.mark.parametrize("key", ["", "wrong", f"{KEY} ", "\ud800"])
def test_a_wrong_key_stands_for_nobody(key: str) -> None:
    assert BOTH.by_api_key(key) is None


def test_an_identity_with_two_owners_is_refused() -> None:
    with pytest.raises(InvalidSnapshot):
        Tenants("v1", (tenant(), tenant(id="globex", api_keys=())))


def test_a_key_with_two_owners_is_refused() -> None:
    key = ApiKey(hashlib.sha256(KEY.encode()).digest(), "batch")

    with pytest.raises(InvalidSnapshot):
        Tenants("v1", (tenant(), tenant(id="globex", spiffe_ids=(), api_keys=(key,))))


def test_before_the_first_snapshot_nobody_is_known() -> None:
    assert PolicyView(stale_after_s=300.0).current(0.0) is None


def test_a_snapshot_lasts_as_long_as_policy_may_be_silent() -> None:
    view = PolicyView(stale_after_s=300.0)
    view.replaced(BOTH, now_s=10.0)

    assert view.current(310.0) is BOTH
    assert view.current(310.1) is None


def test_a_sign_of_life_keeps_a_snapshot() -> None:
    view = PolicyView(stale_after_s=300.0)
    view.replaced(BOTH, now_s=0.0)
    view.confirmed(now_s=200.0)

    assert view.current(500.0) is BOTH
