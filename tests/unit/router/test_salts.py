"""Salts: nobody's is another's, nobody can work one out, and a line more changes them all."""

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.core.demands import WorkloadClass
from services.router.core.salts import CacheSalts, InvalidSalts, SaltSecret, secret_in_force
from services.router.core.tenants import Caller
from tests.unit.router.values import tenant

SECRET = SaltSecret(b"0123456789abcdef")
HIGH, LOW, BATCH = WorkloadClass.HIGH_RISK, WorkloadClass.INTERACTIVE, WorkloadClass.BATCH
HEX = "ab" * 32

# Few of each, so that two callers are often alike in all but one; and some that run into another.
names = st.sampled_from(["a", "b", "ab", "high_risk"])
callers = st.builds(
    Caller, st.builds(tenant, id=names, pool=st.sampled_from(["", "a", "high_risk"])), names
)
asked = st.tuples(callers, st.sampled_from(WorkloadClass))


def partition(caller: Caller, workload_class: WorkloadClass) -> tuple[str, ...]:
    """Who may find what the other has left."""
    whose = (caller.tenant.id, caller.tenant.pool)
    return (*whose, caller.workload, "high_risk") if workload_class is HIGH else whose


@given(asked, asked)
def test_two_requests_share_a_salt_only_inside_one_boundary(
    one: tuple[Caller, WorkloadClass], other: tuple[Caller, WorkloadClass]
) -> None:
    salts = CacheSalts(SECRET)

    assert (salts.of(*one) == salts.of(*other)) == (partition(*one) == partition(*other))


def test_a_salt_depends_on_nothing_that_a_tenant_may_change() -> None:
    salts = CacheSalts(SECRET)
    before, after = tenant(), tenant(models=frozenset(), weight=7)

    assert salts.of(Caller(before, "web"), LOW) == salts.of(Caller(after, "jobs"), BATCH)


def test_a_class_with_a_pool_has_salts_of_its_own() -> None:
    salts = CacheSalts(SECRET)
    there = tenant(class_pools={BATCH: "night"})

    assert salts.of(Caller(there, "web"), BATCH) != salts.of(Caller(there, "web"), LOW)
    assert salts.of(Caller(there, "web"), LOW) == salts.of(Caller(tenant(), "web"), LOW)


def test_a_salt_has_256_bits_and_is_nothing_that_is_known_outside() -> None:
    caller = Caller(tenant(), "web")
    salt = CacheSalts(SECRET).of(caller, LOW)

    assert len(bytes.fromhex(salt)) == 32
    guesses = [b"acme", b"0\0acme\0", b"spiffe://evenflow.local/tenant/acme/web"]
    assert salt not in {hashlib.sha256(each).hexdigest() for each in guesses}
    assert salt not in {hmac.digest(b"", each, "sha256").hex() for each in guesses}


@given(st.lists(st.integers(0, 40), min_size=1, max_size=5, unique=True))
def test_each_epoch_and_each_secret_has_salts_of_its_own(epochs: list[int]) -> None:
    caller = Caller(tenant(), "web")
    secrets = [SaltSecret(bytes([which]) * 16, epoch) for epoch in epochs for which in (1, 2)]
    salts = CacheSalts(SECRET)

    seen = {salts.of(caller, LOW)}
    for each in secrets:
        assert salts.replaced(each)
        seen.add(salts.of(caller, LOW))

    assert len(seen) == 1 + len(secrets)
    assert not salts.replaced(secrets[-1])


def test_callers_without_end_get_the_same_ones_again() -> None:
    salts = CacheSalts(SECRET)
    first = salts.of(Caller(tenant(), "0"), HIGH)

    for number in range(20_001):
        salts.of(Caller(tenant(), str(number)), HIGH)

    assert salts.of(Caller(tenant(), "0"), HIGH) == first


@pytest.mark.parametrize(
    ("content", "epoch", "secret"),
    [
        (b"0123456789abcdef\n", 0, b"0123456789abcdef"),
        (f"0:{HEX}".encode(), 0, b"\xab" * 32),
        (f"0:{HEX}\n\n7:{'CD' * 32}\n".encode(), 7, b"\xcd" * 32),
        (f"a bare one, as before\n1:{HEX}\n".encode(), 1, b"\xab" * 32),
    ],
    ids=["bare", "one epoch", "the last", "bare and an epoch"],
)
def test_the_last_line_is_in_force(content: bytes, epoch: int, secret: bytes) -> None:
    assert secret_in_force(content) == SaltSecret(secret, epoch)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "at least 16 bytes, got 0"),
        (b"short", "at least 16 bytes, got 5"),
        (f"0:{HEX}\n1:{HEX[:-1]}".encode(), "line 2: must be"),
        (f"1:{HEX[:-2]}".encode(), "line 1: must be"),
        (f"0:{HEX}\n{HEX}".encode(), "line 2: must be"),
        (f"2:{HEX}\n2:{HEX}".encode(), "line 2: epoch 2 is not above"),
        (f"2:{HEX}\n\n1:{HEX}".encode(), "line 3: epoch 1 is not above"),
        (f"a bare one, as before\n0:{HEX}".encode(), "line 2: epoch 0 is not above"),
    ],
)
def test_a_broken_file_is_refused_and_not_shown(content: bytes, problem: str) -> None:
    with pytest.raises(InvalidSalts, match=problem) as refused:
        secret_in_force(content)

    assert HEX[:20] not in str(refused.value)
    assert HEX[:20] not in repr(SaltSecret(HEX.encode()))
