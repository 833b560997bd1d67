"""Certificates of a mesh that exists for one test: services and tenants of one authority."""

from pathlib import Path

from cryptography import x509

from evenflow.audit_signing import new_key
from evenflow.certificates import Authority, issue, make_authority, revoke
from evenflow.revocations import spread
from services.chassis.identity import TlsFiles

TRUST_DOMAIN = "evenflow.local"


class Identities:
    """Issues certificates into `folder`, one folder an identity."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._authority: Authority = make_authority(folder / "ca", TRUST_DOMAIN)

    def service(self, name: str) -> TlsFiles:
        return self._issue(f"service/{name}", [f"{name}.{TRUST_DOMAIN}", "localhost", "127.0.0.1"])

    def tenant(self, tenant: str, workload: str = "web") -> TlsFiles:
        return self._issue(f"tenant/{tenant}/{workload}", [])

    def _issue(self, path: str, hosts: list[str]) -> TlsFiles:
        folder = self._folder / path
        issue(self._authority, f"spiffe://{TRUST_DOMAIN}/{path}", hosts, folder)
        return TlsFiles.in_folder(folder)

    def revoke(self, *revoked: TlsFiles, told: TlsFiles) -> None:
        """`told` alone learns that the others' certificates are revoked."""
        for each in revoked:
            certificate = x509.load_pem_x509_certificate(each.certificate.read_bytes())
            self._authority = revoke(certificate, self._folder / "ca")
        spread(self._authority.revoked, self._authority.certificate, told.certificate.parent)


def audit_key_in(folder: Path) -> Path:
    """What policy signs its audit log with, made the first time."""
    path = folder / "audit-key.pem"
    if not path.exists():
        path.write_bytes(new_key())
    return path
