"""The file as a whole: its version, its speed, and what can go wrong with reading it."""

import gc
import hashlib
import time
from dataclasses import replace
from pathlib import Path

import pytest

from services.policy.core.nodes import InvalidPolicy
from services.policy.core.tenants import NO_LIMITS
from services.policy.outbound.policy_file import PolicyFile
from tests.unit.policy.policies import ACME, DOMAIN, as_fields, one_a_line, tenant


def test_the_version_is_a_digest_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "tenants.yaml"
    file.write_text(ACME)

    version = PolicyFile(file, DOMAIN).read().version

    assert version == hashlib.sha256(ACME.encode()).hexdigest()


def test_ten_thousand_tenants_load_within_a_second(tmp_path: Path) -> None:
    """Without what a tenant may have besides: each field more takes its time to parse."""
    plain = [replace(tenant(f"tenant-{at}"), limits=NO_LIMITS) for at in range(10_000)]
    tenants = [as_fields(each) for each in plain]
    for number, fields in enumerate(tenants):
        fields["api_keys"][0]["hash"] = f"sha256:{number:064x}"
    file = tmp_path / "tenants.yaml"
    file.write_text(one_a_line(tenants))

    # More than once, since the machine may be busy with something else
    assert any(_load_s(file) <= 1.0 for _ in range(4))


def test_loading_leaves_the_garbage_collector_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "tenants.yaml"
    file.write_text("tenants: [")

    with pytest.raises(InvalidPolicy):
        PolicyFile(file, DOMAIN).read()

    assert gc.isenabled()


def _load_s(file: Path) -> float:
    began_s = time.thread_time()
    assert len(PolicyFile(file, DOMAIN).read().tenants) == 10_000
    return time.thread_time() - began_s
