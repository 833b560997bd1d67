"""API keys, the tenants' file and the salt: made once, kept, private."""

import asyncio
import hashlib
import stat
from pathlib import Path

from deploy.local.certificates import ensure_certificates
from deploy.local.keys import (
    ensure_cache_salt,
    ensure_key_secret,
    ensure_keys,
    ensure_tenants,
)
from evenflow.certificates import make_authority, read_authority
from evenflow.cli.certs import revoke_certificate
from evenflow.home import service_folder
from services.chassis.secret_file import read_secret
from services.policy.outbound.policy_file import PolicyFile


def test_keys_are_made_once_and_private(tmp_path: Path) -> None:
    keys = ensure_keys(tmp_path)

    assert ensure_keys(tmp_path) == keys
    assert set(keys) == {"acme", "globex"}
    assert all(key.startswith("evf_") and len(key) == 4 + 43 for key in keys.values())
    made = [ensure_cache_salt(tmp_path), ensure_key_secret(tmp_path)]
    for path in [*(tmp_path / "api-keys").iterdir(), *made]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_services_take_the_secret_of_keys(tmp_path: Path) -> None:
    assert len(read_secret(ensure_key_secret(tmp_path))) == 32


def test_policy_takes_the_tenants_file_and_knows_the_keys(tmp_path: Path) -> None:
    keys = ensure_keys(tmp_path)

    policy = asyncio.run(PolicyFile(ensure_tenants(tmp_path, keys), "evenflow.local").load())

    known = {tenant.id: tenant.api_keys[0].sha256 for tenant in policy.tenants}
    assert known == {name: hashlib.sha256(key.encode()).digest() for name, key in keys.items()}


def test_edits_of_the_tenants_file_are_kept(tmp_path: Path) -> None:
    keys = ensure_keys(tmp_path)
    path = ensure_tenants(tmp_path, keys)
    path.write_text(path.read_text() + "# mine\n")

    assert ensure_tenants(tmp_path, keys).read_text().endswith("# mine\n")


def test_a_tenants_file_of_other_keys_is_put_aside(tmp_path: Path) -> None:
    ensure_tenants(tmp_path, ensure_keys(tmp_path)).write_text("tenants: []\n")

    path = ensure_tenants(tmp_path, ensure_keys(tmp_path))

    assert "acme" in path.read_text()
    assert path.with_suffix(".yaml.old").read_text() == "tenants: []\n"


def test_certificates_are_issued_once(tmp_path: Path) -> None:
    assert ensure_certificates(tmp_path) == 8
    assert ensure_certificates(tmp_path) == 0


def test_a_new_authority_issues_everything_anew(tmp_path: Path) -> None:
    ensure_certificates(tmp_path)
    before = read_authority(tmp_path / "ca")

    make_authority(tmp_path / "ca")

    assert read_authority(tmp_path / "ca").certificate != before.certificate
    assert ensure_certificates(tmp_path) == 8


def test_an_authority_from_before_there_were_lists_is_replaced(tmp_path: Path) -> None:
    ensure_certificates(tmp_path)
    (tmp_path / "ca" / "crl.pem").unlink()

    assert ensure_certificates(tmp_path) == 8
    assert ensure_certificates(tmp_path) == 0


def test_a_revoked_certificate_is_issued_anew_and_everybody_has_the_list(tmp_path: Path) -> None:
    ensure_certificates(tmp_path)
    folder = service_folder(tmp_path, "runtime")
    before = (folder / "cert.pem").read_bytes()

    revoke_certificate(folder, home=tmp_path)

    assert ensure_certificates(tmp_path) == 1
    assert (folder / "cert.pem").read_bytes() != before
    assert ensure_certificates(tmp_path) == 0
