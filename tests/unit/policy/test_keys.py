"""The life of a key: no secret is good longer than was said when it was made or rotated."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.policy.core.keys import (
    LONGEST_S,
    InvalidKeyRequest,
    Key,
    Secret,
    checked_name,
    end_of,
    hashed,
    is_in_file,
    owner_of,
    rotated,
)
from tests.unit.policy.policies import policy

MADE_S = 1_000.0
KEY = Key(
    tenant="acme", id="web-1", workload="web", secret=Secret(bytes(32)), created_unix_s=MADE_S
)
FRESH = bytes(range(32))
times = st.sampled_from([0.0, 1.0, 10.0, 10.5, 100.0])  # collide on purpose
ends = st.none() | times.map(lambda later: MADE_S + later)


@given(ends, times, times, st.none() | times.filter(bool))
def test_a_rotation_makes_no_secret_good_for_longer_than_was_said(
    end: float | None, at: float, overlap_s: float, lifetime_s: float | None
) -> None:
    before, now = replace(KEY, secret=Secret(bytes(32), end)), MADE_S + at
    try:
        after = rotated(before, FRESH, overlap_s=overlap_s, lifetime_s=lifetime_s, now_unix_s=now)
    except InvalidKeyRequest:
        assert lifetime_s is None  # the one thing that can be mended
        assert not before.secret.is_good(now)
        return

    assert after.secret.hmac_sha256 == FRESH
    assert after.secret.is_good(now)
    wanted = end if lifetime_s is None else now + lifetime_s
    assert after.secret.expires_unix_s == wanted
    until = now + overlap_s if end is None else min(end, now + overlap_s)
    if until > now:
        assert after.former == Secret(bytes(32), until)
    else:
        assert after.former is None


def test_of_two_rotations_the_first_secret_is_gone() -> None:
    once = rotated(KEY, FRESH, overlap_s=50.0, lifetime_s=None, now_unix_s=MADE_S)
    twice = rotated(once, bytes(range(1, 33)), overlap_s=50.0, lifetime_s=None, now_unix_s=MADE_S)

    assert twice.former is not None
    assert twice.former.hmac_sha256 == FRESH


@pytest.mark.parametrize("overlap_s", [-1.0, LONGEST_S + 1])
def test_an_overlap_that_cannot_be_meant_is_refused(overlap_s: float) -> None:
    with pytest.raises(InvalidKeyRequest, match="overlap: "):
        rotated(KEY, FRESH, overlap_s=overlap_s, lifetime_s=None, now_unix_s=MADE_S)


@pytest.mark.parametrize("lifetime_s", [0.0, -1.0, LONGEST_S + 1])
def test_a_lifetime_that_cannot_be_meant_is_refused(lifetime_s: float) -> None:
    with pytest.raises(InvalidKeyRequest, match="lifetime: "):
        end_of(lifetime_s, MADE_S)


def test_a_key_is_good_until_its_end_and_not_at_it() -> None:
    secret = Secret(bytes(32), MADE_S)

    assert secret.is_good(MADE_S - 1e-6)
    assert not secret.is_good(MADE_S)


@pytest.mark.parametrize("name", ["", ".web", "a b", "a/b", "x" * 64, "w\n"])
def test_a_name_that_no_log_should_have_is_refused(name: str) -> None:
    with pytest.raises(InvalidKeyRequest, match="workload: must be"):
        checked_name("workload", name)


def test_a_tenant_that_is_not_in_the_policy_is_named() -> None:
    with pytest.raises(InvalidKeyRequest, match="tenant: the policy has no tenant 'globex'"):
        owner_of(policy("v1", "acme"), "globex")


def test_the_files_keys_are_known_by_tenant_and_id() -> None:
    known = policy("v1", "acme", "globex")

    assert is_in_file(known, "acme", "web-1")
    assert not is_in_file(known, "acme", "web-2")
    assert not is_in_file(known, "initech", "web-1")


def test_a_hash_is_of_no_use_without_the_meshs_secret() -> None:
    assert len({hashed(bytes(32), "evf_a"), hashed(FRESH, "evf_a"), hashed(FRESH, "evf_b")}) == 3
