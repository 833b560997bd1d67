"""A small certificate authority for development: SPIFFE certificates for services and tenants.

Production takes its identities from SPIRE or another issuer; nothing else in this package needs
this module. A certificate folder holds `cert.pem`, `key.pem` and `ca.pem`. Names as in the
SPIFFE X.509-SVID specification: one URI, not a CA, for servers and clients alike.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from tempfile import mkdtemp

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_LIFE = timedelta(days=365)
LIFE = timedelta(days=30)
RENEW_BEFORE = timedelta(days=10)  # a third of its life, as SPIRE and cert-manager do
BACKDATED = timedelta(minutes=5)  # clocks of two machines differ


class InvalidCertificate(ValueError):
    """A certificate or key on disk can't be read; remove it and issue it again."""


@dataclass(frozen=True, slots=True)
class Authority:
    """`also`: other authorities whose certificates are good, while one takes another's place."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    also: tuple[x509.Certificate, ...] = ()

    @property
    def pem(self) -> bytes:
        """Everyone to trust."""
        trusted = (self.certificate, *self.also)
        return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in trusted)


def make_authority(
    folder: Path, trust_domain: str = "evenflow.local", *, expires_at: datetime | None = None
) -> Authority:
    """Writes a new authority into `folder`, `ca.pem` and `key.pem`, and returns it."""
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
    authority = Authority(certificate, key)
    _replace(folder, {"key.pem": _key_pem(key), "ca.pem": authority.pem})
    return authority


def read_authority(folder: Path) -> Authority:
    """Reads what `make_authority` wrote.

    Raises:
        FileNotFoundError: there is none in `folder`.
        InvalidCertificate: a file there is damaged.
    """
    certificate_pem, key_pem = (folder / "ca.pem").read_bytes(), (folder / "key.pem").read_bytes()
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        key = serialization.load_pem_private_key(key_pem, password=None)
    except ValueError as error:
        raise InvalidCertificate(f"{folder} holds no readable authority: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InvalidCertificate(f"{folder / 'key.pem'} must be an elliptic-curve key")
    return Authority(certificate, key)


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
    _replace(folder, {"key.pem": _key_pem(key), "cert.pem": pem, "ca.pem": authority.pem})


def is_current(
    authority: Authority,
    spiffe_id: str,
    hosts: Sequence[str],
    folder: Path,
    *,
    now: datetime | None = None,
) -> bool:
    """Whether `folder` holds this identity, from this authority, with enough life left."""
    try:
        certificate = x509.load_pem_x509_certificate((folder / "cert.pem").read_bytes())
        key = serialization.load_pem_private_key((folder / "key.pem").read_bytes(), password=None)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        certificate.verify_directly_issued_by(authority.certificate)
        same_authority = (folder / "ca.pem").read_bytes() == authority.pem
    except (OSError, ValueError, TypeError, x509.ExtensionNotFound, InvalidSignature):
        return False  # missing or damaged: to be issued again, which is what False asks for
    return (
        same_authority
        and names == _subject_names(spiffe_id, hosts)
        and key.public_key() == certificate.public_key()
        and life_left(certificate, now=now) > RENEW_BEFORE
    )


def life_left(certificate: x509.Certificate, *, now: datetime | None = None) -> timedelta:
    return certificate.not_valid_after_utc - (now or datetime.now(UTC))


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


def _replace(folder: Path, files: Mapping[str, bytes]) -> None:
    """Swaps all files in one rename, so that no reader pairs a new key with an old certificate.

    The layout is Kubernetes' for mounted secrets, which Envoy's `watched_directory` knows too:
    `cert.pem` points at `..current/cert.pem`, and `..current` at the folder of one issue.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    version = Path(mkdtemp(prefix="..", dir=folder))
    for name, content in files.items():
        descriptor = os.open(version / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
    _point(folder / "..current", Path(version.name))
    for name in files:
        _point(folder / name, Path("..current", name))
    for old in folder.glob("..*"):
        if old.is_dir() and not old.is_symlink() and old != version:
            shutil.rmtree(old)


def _point(link: Path, target: Path) -> None:
    if link.is_symlink() and link.readlink() == target:
        return
    fresh = link.with_name(f"{link.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(link)
