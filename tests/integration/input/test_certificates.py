"""At the mesh's door: certificates that are none of ours end the connection before any request."""

import socket
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from evenflow.certificates import Authority, issue, make_authority, read_authority
from evenflow.home import TRUST_DOMAIN, tenant_id
from tests.integration.input.http2 import HELLO
from tests.integration.input.raw import posted
from tests.integration.input.test_slow_clients import BODY
from tests.integration.whole.mesh import Mesh

Make = Callable[[Authority, Path], None]
"""Writes cert.pem and key.pem into a folder; given the mesh's own authority."""


def of_another_authority(_: Authority, folder: Path) -> None:
    stranger = make_authority(folder / "ca", TRUST_DOMAIN)
    issue(stranger, tenant_id("acme"), (), folder)


def expired(authority: Authority, folder: Path) -> None:
    issue(authority, tenant_id("acme"), (), folder, expires_at=_ago())


def of_another_trust_domain(authority: Authority, folder: Path) -> None:
    issue(authority, "spiffe://elsewhere.local/tenant/acme/web", (), folder)


def of_no_spiffe_id(authority: Authority, folder: Path) -> None:
    issue(authority, "https://acme.example/web", (), folder)


def signed_by_itself(_: Authority, folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    _write(folder, _certificate("acme", key.public_key(), "acme", key), key)


def whose_signer_is_a_tenant(authority: Authority, folder: Path) -> None:
    """A chain through a certificate that may not sign others."""
    issue(authority, tenant_id("acme"), (), folder)
    signer = x509.load_pem_x509_certificate((folder / "cert.pem").read_bytes())
    signer_key = serialization.load_pem_private_key((folder / "key.pem").read_bytes(), None)
    assert isinstance(signer_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = _certificate("acme", key.public_key(), signer.subject, signer_key)
    _write(folder, leaf, key, signer)


def whose_signer_is_not_shown(authority: Authority, folder: Path) -> None:
    whose_signer_is_a_tenant(authority, folder)
    leaf = x509.load_pem_x509_certificate((folder / "cert.pem").read_bytes())
    (folder / "cert.pem").write_bytes(leaf.public_bytes(serialization.Encoding.PEM))


REFUSED: dict[str, Make] = {
    make.__name__.replace("_", " "): make
    for make in (
        of_another_authority,
        expired,
        of_another_trust_domain,
        of_no_spiffe_id,
        signed_by_itself,
        whose_signer_is_a_tenant,
        whose_signer_is_not_shown,
    )
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_certificate_is_refused(mesh: Mesh, tmp_path: Path, name: str) -> None:
    REFUSED[name](read_authority(mesh.home / "ca"), tmp_path)

    assert alert(mesh, tmp_path) is not None
    assert posted(mesh, BODY).status == 200


def test_no_certificate_is_refused(mesh: Mesh) -> None:
    assert alert(mesh, None) is not None
    assert posted(mesh, BODY).status == 200


def test_one_of_the_mesh_is_let_in(mesh: Mesh) -> None:
    """Else the others would be refused for nothing."""
    assert alert(mesh, mesh.tenant("acme")) is None


def alert(mesh: Mesh, folder: Path | None) -> str | None:
    """What TLS said in place of HTTP/2's settings; None if it said those."""
    context = ssl.create_default_context(cafile=mesh.tenant("acme") / "ca.pem")
    context.set_alpn_protocols(["h2"])
    if folder is not None:
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    address = ("127.0.0.1", mesh.single_ports.mesh)
    with socket.create_connection(address, timeout=20) as plain:
        try:
            with context.wrap_socket(plain, server_hostname="localhost") as client:
                client.sendall(HELLO)
                if client.recv(9):
                    return None
        except ssl.SSLError as error:
            return str(error.reason)
    return ""


def _certificate(
    name: str,
    public: ec.EllipticCurvePublicKey,
    issuer: x509.Name | str,
    key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(issuer) if isinstance(issuer, str) else issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_ago())
        .not_valid_after(datetime.now(UTC) + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(tenant_id("acme"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )


def _write(
    folder: Path,
    leaf: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    *signers: x509.Certificate,
) -> None:
    chain = [each.public_bytes(serialization.Encoding.PEM) for each in (leaf, *signers)]
    (folder / "cert.pem").write_bytes(b"".join(chain))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _ago() -> datetime:
    return datetime.now(UTC) - timedelta(hours=1)
