"""Who may go on: exactly those who would be let in with the same credential now."""

import hashlib
import hmac
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.core.credentials import Credential, Cut, cut
from services.router.core.tenants import ApiKey, Tenant, Tenants
from services.router.inbound.answers import Answer
from services.router.inbound.check import Check
from tests.unit.router.values import (
    KEY,
    KEY_SHA256,
    LIMITS,
    WEB,
    check_request,
    mesh,
    on_front_end,
    tenant,
)

SECRET = bytes(range(32))
NOW_S, END_S = 1_000.0, 1_010.0
SHOWN = ("evf_a", "evf_b")
KEYS = tuple(
    ApiKey(b"", "web", hmac.digest(SECRET, each.encode(), hashlib.sha256), end, "web-2")
    for each in SHOWN
    for end in (None, END_S)
)
owned = st.lists(st.sampled_from(KEYS), unique_by=lambda key: key.hmac_sha256).map(tuple)
PATTERNS = ("spiffe://evenflow.local/tenant/acme/*", WEB, "spiffe://evenflow.local/tenant/acme/x")


def snapshot(acme: tuple[ApiKey, ...] | None, globex: tuple[ApiKey, ...] = ()) -> Tenants:
    """`acme` None: it has left."""
    known: list[Tenant] = [tenant(id="globex", spiffe_ids=(), api_keys=globex)]
    if acme is not None:
        known.append(tenant(api_keys=acme))
    return Tenants("v1", known, key_secret=SECRET)


@given(
    st.none() | owned,
    st.sampled_from(SHOWN),
    st.sampled_from(KEYS),
    st.sampled_from([NOW_S, END_S]),
)
def test_a_key_may_go_on_if_it_would_be_let_in(
    acme: tuple[ApiKey, ...] | None, shown: str, came_with: ApiKey, now_s: float
) -> None:
    tenants = snapshot(acme)
    came_with = replace(came_with, hmac_sha256=hmac.digest(SECRET, shown.encode(), hashlib.sha256))
    caller = tenants.by_api_key(shown)
    let_in = caller is not None and caller.key is not None and caller.key.is_good(now_s)

    why = cut(Credential(came_with), "acme", tenants, lambda _: False, now_unix_s=now_s)

    assert why is (None if let_in else Cut.API_KEY_REVOKED)


@given(st.lists(st.sampled_from(PATTERNS), unique=True), st.booleans())
def test_a_certificate_may_go_on_if_it_would_be_let_in(patterns: list[str], revoked: bool) -> None:
    tenants = Tenants("v1", [tenant(spiffe_ids=patterns, api_keys=())])
    let_in = tenants.by_spiffe_id(WEB) is not None and not revoked

    why = cut(Credential(None, WEB, "77"), "acme", tenants, lambda _: revoked, now_unix_s=NOW_S)

    assert why is (None if let_in else Cut.CERTIFICATE_REVOKED)


def test_a_key_that_is_another_tenants_now_is_not_its_own() -> None:
    tenants = snapshot((), globex=KEYS[:1])

    why = cut(Credential(KEYS[0]), "acme", tenants, lambda _: False, now_unix_s=NOW_S)

    assert why is Cut.API_KEY_REVOKED


def test_of_a_rotated_key_the_old_secret_is_another_key() -> None:
    fresh = replace(KEYS[0], hmac_sha256=bytes(32))

    why = cut(Credential(KEYS[0]), "acme", snapshot((fresh,)), lambda _: False, now_unix_s=NOW_S)

    assert why is Cut.API_KEY_REVOKED


def test_without_word_from_policy_an_end_still_is_one() -> None:
    ending, endless = Credential(KEYS[1]), Credential(KEYS[0])

    def of(credential: Credential) -> Cut | None:
        return cut(credential, "acme", None, lambda _: False, now_unix_s=END_S)

    assert of(ending) is Cut.API_KEY_REVOKED
    assert of(endless) is None
    assert of(Credential(None, WEB, "77")) is None


def test_a_key_of_policys_needs_the_meshs_secret() -> None:
    known = [tenant(api_keys=KEYS[:1])]

    assert Tenants("v1", known, key_secret=SECRET).by_api_key(SHOWN[0]) is not None
    assert Tenants("v1", known, key_secret=bytes(32)).by_api_key(SHOWN[0]) is None


def test_a_hash_is_no_key() -> None:
    tenants = Tenants("v1", [tenant(api_keys=(ApiKey(bytes(32), "web"), *KEYS[:1]))])

    assert tenants.by_api_key(KEYS[0].hmac_sha256.decode("latin-1")) is None


@pytest.mark.parametrize(
    ("expires_unix_s", "status"), [(None, 200), (1000.5, 200), (1000.0, 401), (1.0, 401)]
)
def test_a_request_with_a_key_is_let_in_until_its_end(
    expires_unix_s: float | None, status: int
) -> None:
    key = ApiKey(KEY_SHA256, "web", expires_unix_s=expires_unix_s)
    asking = on_front_end(check_request(), KEY)  # received at 1000.0

    answer = Check(mesh(tenant(api_keys=(key,))), LIMITS, grace_s=5.0, clock=lambda: 10.0)(asking)

    assert isinstance(answer, Answer)
    assert answer.status == status
    assert status == 200 or dict(answer.headers)["x-evenflow-reason"] == "KEY_EXPIRED"
