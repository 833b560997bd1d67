"""The development authority's list of revoked certificates, and how it comes into every folder."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from evenflow.certificates import (
    InvalidCertificate,
    is_current,
    issue,
    make_authority,
    read_authority,
    revoke,
)
from evenflow.revocations import lists_in, spread

WEB = "spiffe://evenflow.local/tenant/acme/web"


def certificate_in(folder: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / "cert.pem").read_bytes())


def serials_in(folder: Path) -> list[set[int]]:
    lists = lists_in((folder / "crl.pem").read_bytes())
    return [{revoked.serial_number for revoked in each} for each in lists]


def test_a_new_authority_has_revoked_nobody_until_its_own_end(tmp_path: Path) -> None:
    authority = make_authority(tmp_path)

    (only,) = lists_in((tmp_path / "crl.pem").read_bytes())
    assert list(only) == []
    assert only.next_update_utc == authority.certificate.not_valid_after_utc
    assert only.is_signature_valid(authority.key.public_key())


def test_an_authority_that_has_ended_has_a_list_too(tmp_path: Path) -> None:
    make_authority(tmp_path, expires_at=datetime.now(UTC) - timedelta(days=1))

    assert list(read_authority(tmp_path).revoked) == []


def test_revoked_certificates_add_up_and_each_list_has_a_number_of_its_own(tmp_path: Path) -> None:
    authority = make_authority(tmp_path / "ca")
    serials = set()
    for name in ("a", "b", "a"):
        if not (tmp_path / name).exists():
            issue(authority, f"{WEB}-{name}", (), tmp_path / name)
        certificate = certificate_in(tmp_path / name)
        revoke(certificate, tmp_path / "ca")
        serials.add(certificate.serial_number)

    now = read_authority(tmp_path / "ca").revoked

    assert {each.serial_number for each in now} == serials
    number = now.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    assert number == 3  # the empty one, and one for each certificate


def test_a_certificate_of_another_authority_is_not_ours_to_revoke(tmp_path: Path) -> None:
    make_authority(tmp_path / "ca")
    issue(make_authority(tmp_path / "other"), WEB, (), tmp_path / "web")

    with pytest.raises(InvalidCertificate, match="did not issue"):
        revoke(certificate_in(tmp_path / "web"), tmp_path / "ca")


def test_a_revoked_certificate_is_not_current_and_its_successor_is(tmp_path: Path) -> None:
    authority = make_authority(tmp_path / "ca")
    issue(authority, WEB, (), tmp_path / "web")
    authority = revoke(certificate_in(tmp_path / "web"), tmp_path / "ca")
    spread(authority.revoked, authority.certificate, tmp_path / "web")

    assert not is_current(authority, WEB, (), tmp_path / "web")
    issue(authority, WEB, (), tmp_path / "web")
    assert is_current(authority, WEB, (), tmp_path / "web")


def test_a_folder_without_the_latest_list_is_not_current(tmp_path: Path) -> None:
    authority = make_authority(tmp_path / "ca")
    for name in ("web", "other"):
        issue(authority, WEB, (), tmp_path / name)
    authority = revoke(certificate_in(tmp_path / "other"), tmp_path / "ca")

    assert not is_current(authority, WEB, (), tmp_path / "web")
    spread(authority.revoked, authority.certificate, tmp_path / "web")
    assert is_current(authority, WEB, (), tmp_path / "web")


def test_while_two_authorities_are_trusted_the_list_of_each_is_there(tmp_path: Path) -> None:
    old, new = make_authority(tmp_path / "old"), make_authority(tmp_path / "new")
    issue(replace(new, also=(old,)), WEB, (), tmp_path / "web")
    revoked = certificate_in(tmp_path / "web")
    issue(replace(new, also=(old,)), WEB, (), tmp_path / "web")
    assert serials_in(tmp_path / "web") == [set(), set()]

    new = revoke(revoked, tmp_path / "new")
    spread(new.revoked, new.certificate, tmp_path / "web")

    assert serials_in(tmp_path / "web") == [{revoked.serial_number}, set()]
    assert is_current(replace(new, also=(old,)), WEB, (), tmp_path / "web")
