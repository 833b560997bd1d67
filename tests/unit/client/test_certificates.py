"""The development authority: what it issues, what it re-issues, and how files are swapped."""

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from evenflow.certificates import (
    LIFE,
    RENEW_BEFORE,
    InvalidCertificate,
    is_current,
    issue,
    make_authority,
    read_authority,
)

WEB = "spiffe://evenflow.local/tenant/acme/web"


def test_a_certificate_bears_one_spiffe_id_and_its_hosts(tmp_path: Path) -> None:
    authority = make_authority(tmp_path / "ca")

    issue(authority, WEB, ("gateway.evenflow.local", "127.0.0.1"), tmp_path / "web")

    certificate = x509.load_pem_x509_certificate((tmp_path / "web/cert.pem").read_bytes())
    certificate.verify_directly_issued_by(authority.certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == [WEB, "gateway.evenflow.local", "127.0.0.1"]


def test_only_the_owner_may_read_a_key(tmp_path: Path) -> None:
    issue(make_authority(tmp_path / "ca"), WEB, (), tmp_path / "web")

    for folder in (tmp_path / "ca", tmp_path / "web"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "key.pem").stat().st_mode) == 0o600


def test_an_authority_is_read_back_as_it_was_made(tmp_path: Path) -> None:
    made = make_authority(tmp_path)

    assert read_authority(tmp_path).certificate == made.certificate


def test_a_damaged_authority_is_named(tmp_path: Path) -> None:
    make_authority(tmp_path)
    (tmp_path / "ca.pem").write_text("half a fi")

    with pytest.raises(InvalidCertificate, match="no readable authority"):
        read_authority(tmp_path)


@pytest.mark.parametrize(
    ("days_later", "current"),
    [(0, True), (19, True), (21, False), (31, False)],
)
def test_a_certificate_is_renewed_with_a_third_of_its_life_left(
    tmp_path: Path, days_later: int, current: bool
) -> None:
    assert (LIFE.days, RENEW_BEFORE.days) == (30, 10)
    authority = make_authority(tmp_path / "ca")
    issue(authority, WEB, (), tmp_path / "web")

    later = datetime.now(UTC) + timedelta(days=days_later)

    assert is_current(authority, WEB, (), tmp_path / "web", now=later) is current


def test_a_certificate_of_another_authority_name_or_host_is_not_current(tmp_path: Path) -> None:
    authority = make_authority(tmp_path / "ca")
    issue(authority, WEB, (), tmp_path / "web")

    assert not is_current(make_authority(tmp_path / "other"), WEB, (), tmp_path / "web")
    assert not is_current(authority, f"{WEB}-2", (), tmp_path / "web")
    assert not is_current(authority, WEB, ("localhost",), tmp_path / "web")
    assert not is_current(authority, WEB, (), tmp_path / "nowhere")


def test_an_issue_swaps_certificate_and_key_in_one_step(tmp_path: Path) -> None:
    authority = make_authority(tmp_path / "ca")
    issue(authority, WEB, (), tmp_path / "web")
    pair_before = (tmp_path / "web/cert.pem").resolve().parent

    issue(authority, WEB, (), tmp_path / "web")

    pair = {(tmp_path / "web" / name).resolve().parent for name in ("cert.pem", "key.pem")}
    assert len(pair) == 1
    assert pair != {pair_before}
    assert not pair_before.exists()
    assert is_current(authority, WEB, (), tmp_path / "web")


def test_an_expired_certificate_can_be_made_for_tests(tmp_path: Path) -> None:
    authority = make_authority(tmp_path / "ca")
    yesterday = datetime.now(UTC) - timedelta(days=1)

    issue(authority, WEB, (), tmp_path / "web", expires_at=yesterday)

    certificate = x509.load_pem_x509_certificate((tmp_path / "web/cert.pem").read_bytes())
    assert certificate.not_valid_after_utc < datetime.now(UTC)
