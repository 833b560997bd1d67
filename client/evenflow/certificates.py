"""A small certificate authority for development: SPIFFE certificates for services and tenants.

Production takes its identities from SPIRE or another issuer; nothing else in this package needs
this module. A certificate folder holds `cert.pem`, `key.pem`, `ca.pem` and `crl.pem`. Names as in
the SPIFFE X.509-SVID specification: one URI, not a CA, for servers and clients alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from evenflow.folders import replace_files
from evenflow.revocations import BACKDATED, pem_of, signed_list, with_revoked

AUTHORITY_LIFE = timedelta(days=365)
LIFE = timedelta(days=30)
RENEW_BEFORE = timedelta(days=10)  # a third of its life, as SPIRE and cert-manager do


class InvalidCertificate(ValueError):
    """A certificate or key on disk can't be read; remove it and issue it again."""


@dataclass(frozen=True, slots=True)
class Authority:
    """`also`: other authorities whose certificates are good, while one takes another's place."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    revoked: x509.CertificateRevocationList
    also: tuple["Authority", ...] = ()

    @property
    def pem(self) -> bytes:
        """Everyone to trust."""
        trusted = (self, *self.also)
        return b"".join(
            each.certificate.public_bytes(serialization.Encoding.PEM) for each in trusted
        )

    @property
    def revoked_pem(self) -> bytes:
        """The list of everyone to trust: who has a list of one wants the others' as well."""
        return pem_of(each.revoked for each in (self, *self.also))


def make_authority(
    folder: Path, trust_domain: str = "evenflow.local", *, expires_at: datetime | None = None
) -> Authority:
    """Writes a new authority into `folder`, `ca.pem`, `key.pem` and `crl.pem`, and returns it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("Evenflow development CA")
    certificate = (
        _unsigned(
            name,
            name,
            key.public_key(),
            valid=_ending(expires_at or datetime.now(UTC) + AUTHORITY_LIFE, AUTHORITY_LIFE),
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(_subject_names(f"spiffe://{trust_domain}"), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    authority = Authority(certificate, key, signed_list(certificate, key))
    _write_authority(authority, folder)
    return authority


def read_authority(folder: Path) -> Authority:
    """Reads what `make_authority` wrote.

    Raises:
        FileNotFoundError: there is none in `folder`.
        InvalidCertificate: a file there is damaged.
    """
    certificate_pem, key_pem, revoked_pem = (
        (folder / name).read_bytes() for name in ("ca.pem", "key.pem", "crl.pem")
    )
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        key = serialization.load_pem_private_key(key_pem, password=None)
        revoked = x509.load_pem_x509_crl(revoked_pem)
    except ValueError as error:
        raise InvalidCertificate(f"{folder} holds no readable authority: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InvalidCertificate(f"{folder / 'key.pem'} must be an elliptic-curve key")
    return Authority(certificate, key, revoked)


def revoke(certificate: x509.Certificate, folder: Path) -> Authority:
    """Puts the certificate on the list of the authority in `folder`; a second time changes nothing.

    Raises as `read_authority`, and InvalidCertificate for another authority's certificate.
    """
    authority = read_authority(folder)
    if not _issued_by(authority, certificate):
        raise InvalidCertificate(f"the authority in {folder} did not issue this certificate")
    revoked = with_revoked(
        authority.revoked, certificate.serial_number, authority.certificate, authority.key
    )
    authority = replace(authority, revoked=revoked)
    _write_authority(authority, folder)
    return authority


def issue(
    authority: Authority,
    spiffe_id: str,
    hosts: Sequence[str],
    folder: Path,
    *,
    expires_at: datetime | None = None,
) -> None:
    """Writes a new key and certificate into `folder`, replacing those that are there at once.

    `hosts` are DNS names and IP addresses. Unset, `expires_at` is LIFE from now.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key()
    issuer = authority.certificate
    certificate = (
        _unsigned(
            _name(spiffe_id),
            issuer.subject,
            public,
            valid=_ending(expires_at or datetime.now(UTC) + LIFE, LIFE),
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        .add_extension(_subject_names(spiffe_id, hosts), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()),
            critical=False,
        )
        .sign(authority.key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    replace_files(
        folder,
        {
            "key.pem": _key_pem(key),
            "cert.pem": pem,
            "ca.pem": authority.pem,
            "crl.pem": authority.revoked_pem,
        },
    )


def is_current(
    authority: Authority,
    spiffe_id: str,
    hosts: Sequence[str],
    folder: Path,
    *,
    now: datetime | None = None,
) -> bool:
    """Whether `folder` holds this identity, from this authority, not revoked, with enough life
    left, and knows whom else the authority revoked."""
    try:
        certificate = x509.load_pem_x509_certificate((folder / "cert.pem").read_bytes())
        key = serialization.load_pem_private_key((folder / "key.pem").read_bytes(), password=None)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        same_authority = (folder / "ca.pem").read_bytes() == authority.pem
        same_list = (folder / "crl.pem").read_bytes() == authority.revoked_pem
    except (OSError, ValueError, TypeError, x509.ExtensionNotFound):
        return False  # missing or damaged: to be issued again, which is what False asks for
    return (
        same_authority
        and same_list
        and _issued_by(authority, certificate)
        and not is_revoked(authority, certificate)
        and names == _subject_names(spiffe_id, hosts)
        and key.public_key() == certificate.public_key()
        and life_left(certificate, now=now) > RENEW_BEFORE
    )


def is_revoked(authority: Authority, certificate: x509.Certificate) -> bool:
    serial = certificate.serial_number
    return authority.revoked.get_revoked_certificate_by_serial_number(serial) is not None


def life_left(certificate: x509.Certificate, *, now: datetime | None = None) -> timedelta:
    return certificate.not_valid_after_utc - (now or datetime.now(UTC))


def _issued_by(authority: Authority, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority.certificate)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _write_authority(authority: Authority, folder: Path) -> None:
    replace_files(
        folder,
        {
            "key.pem": _key_pem(authority.key),
            "ca.pem": authority.certificate.public_bytes(serialization.Encoding.PEM),
            "crl.pem": pem_of([authority.revoked]),
        },
    )


def _unsigned(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    *,
    valid: tuple[datetime, datetime],
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(valid[0])
        .not_valid_after(valid[1])
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])  # RFC 5280's limit


def _ending(end: datetime, life: timedelta) -> tuple[datetime, datetime]:
    return end - life - BACKDATED, end


def _subject_names(uri: str, hosts: Sequence[str] = ()) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName(
        [x509.UniformResourceIdentifier(uri), *(_host_name(host) for host in hosts)]
    )


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
