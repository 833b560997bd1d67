"""Lists of certificates that are not good any more, signed by who issued them (RFC 5280, 5).

A list ends with its authority: nobody has to renew it meanwhile. Issuers whose lists end sooner
must put a new one in its place in time, since an ended list refuses everybody at Envoy.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from evenflow.folders import replace_files

BACKDATED = timedelta(days=1)  # clocks of two machines differ, and jump back


def signed_list(
    issuer: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    revoked: Iterable[x509.RevokedCertificate] = (),
    *,
    number: int = 1,
    ends_at: datetime | None = None,
) -> x509.CertificateRevocationList:
    """`number` grows with each list of an issuer. Unset, `ends_at` is the issuer's own end."""
    end = ends_at or issuer.not_valid_after_utc
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(min(datetime.now(UTC), end) - BACKDATED)
        .next_update(end)
        .add_extension(x509.CRLNumber(number), critical=False)
        # Two authorities may have one name: by their keys their lists are told apart.
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
        )
    )
    for each in revoked:
        builder = builder.add_revoked_certificate(each)
    return builder.sign(key, hashes.SHA256())


def with_revoked(
    before: x509.CertificateRevocationList,
    serial: int,
    issuer: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
) -> x509.CertificateRevocationList:
    """The list with one more on it, or the list before if that one is on it already."""
    if before.get_revoked_certificate_by_serial_number(serial) is not None:
        return before
    revoked = (
        x509.RevokedCertificateBuilder()
        .serial_number(serial)
        .revocation_date(datetime.now(UTC))
        .build()
    )
    number = before.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    return signed_list(issuer, key, [*before, revoked], number=number + 1)


def pem_of(lists: Iterable[x509.CertificateRevocationList]) -> bytes:
    return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in lists)


def lists_in(pem: bytes) -> list[x509.CertificateRevocationList]:
    """Raises ValueError for what is no list."""
    end = b"-----END X509 CRL-----"
    return [x509.load_pem_x509_crl(part + end) for part in pem.split(end)[:-1]]


def spread(revoked: x509.CertificateRevocationList, issuer: x509.Certificate, folder: Path) -> None:
    """Puts the list into a certificate folder; lists of other authorities stay there."""
    files = {
        name: (folder / name).read_bytes()
        for name in ("key.pem", "cert.pem", "ca.pem", "crl.pem")
        if (folder / name).exists()
    }
    others = [
        each
        for each in lists_in(files.get("crl.pem", b""))
        if not each.is_signature_valid(issuer.public_key())  # type: ignore[arg-type] # an authority's key signs
    ]
    replace_files(folder, {**files, "crl.pem": pem_of([revoked, *others])})
