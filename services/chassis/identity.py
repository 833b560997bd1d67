"""Who a peer is: SPIFFE IDs, and mTLS credentials that follow their files when they rotate.

SPIFFE: https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md, sections 2.1-2.2.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import grpc

_SEGMENT = re.compile(r"[A-Za-z0-9._-]+")
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}")


class InvalidSpiffeId(ValueError):
    """Not a SPIFFE ID; nobody may act under it."""


@dataclass(frozen=True, slots=True)
class SpiffeId:
    trust_domain: str
    path: tuple[str, ...]  # segments, none empty

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises InvalidSpiffeId for anything that the standard does not allow."""
        scheme, _, rest = text.partition("://")
        trust_domain, *path = rest.split("/")
        well_formed = (
            scheme == "spiffe"
            and len(text) <= 2048
            and _TRUST_DOMAIN.fullmatch(trust_domain)
            and all(_SEGMENT.fullmatch(part) and part not in {".", ".."} for part in path)
        )
        if not well_formed:
            raise InvalidSpiffeId(f"must be a SPIFFE ID, got {text[:100]!r}")
        return cls(trust_domain, tuple(path))

    def __str__(self) -> str:
        return "/".join((f"spiffe://{self.trust_domain}", *self.path))

    @property
    def service(self) -> str | None:
        """The name of one of the mesh's own services; None for everybody else."""
        match self.path:
            case ("service", name):
                return name
        return None


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """A certificate, its key and the authorities to trust, all PEM; and which certificates these
    have revoked: that file may be absent, and then it is none."""

    certificate: Path
    key: Path
    authorities: Path
    revocations: Path

    @classmethod
    def in_folder(cls, folder: Path) -> Self:
        return cls(*(folder / name for name in ("cert.pem", "key.pem", "ca.pem", "crl.pem")))

    def read(self) -> "TlsMaterial":
        """A key with the certificate that belongs to it, even while they are being replaced."""
        while True:
            before = self.stamp()
            material = self._read_once()
            if self.stamp() == before:
                return material

    def _read_once(self) -> "TlsMaterial":
        return TlsMaterial(
            certificate=self.certificate.read_bytes(),
            key=self.key.read_bytes(),
            authorities=self.authorities.read_bytes(),
            revocations=self._read_revocations(),
        )

    def _read_revocations(self) -> bytes | None:
        try:
            return self.revocations.read_bytes()
        except FileNotFoundError:
            return None

    def stamp(self) -> tuple[int, ...]:
        """Changes when any of the files does."""
        files = [self.certificate, self.key, self.authorities]
        try:
            found = [*(file.stat() for file in files), self.revocations.stat()]
        except FileNotFoundError:
            found = [file.stat() for file in files]
        return tuple(part for each in found for part in (each.st_mtime_ns, each.st_ino))


@dataclass(frozen=True, slots=True, repr=False)
class TlsMaterial:
    certificate: bytes
    key: bytes
    authorities: bytes
    revocations: bytes | None  # one list or more


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Requires a certificate of the mesh from every client; reads rotated files at the next
    handshake. Connections that are open keep the certificate they began with."""
    served = files.stamp()

    def current() -> Any:
        nonlocal served
        stamp = files.stamp()
        if stamp == served:
            return None  # gRPC keeps what it has
        served = stamp
        return _configuration(files.read())

    credentials: grpc.ServerCredentials = grpc.dynamic_ssl_server_credentials(
        _configuration(files.read()), current, require_client_authentication=True
    )
    return credentials


def channel(
    address: str, files: TlsFiles, *, server: str, options: Sequence[tuple[str, Any]] = ()
) -> grpc.aio.Channel:
    """A channel to one of the mesh's services, whose name its certificate must bear.

    `unix:` addresses are plain: the folder's permissions guard them. The certificate is the one
    on disk now, so open a new channel on each reconnect to follow a rotation.
    """
    if address.startswith("unix:"):
        return grpc.aio.insecure_channel(
            address, options=[*options, _OWN_CONNECTION, _UNIX_AUTHORITY]
        )
    material = files.read()
    credentials = grpc.ssl_channel_credentials(
        material.authorities, material.key, material.certificate
    )
    name = f"{server}.{certificate_trust_domain(material.certificate)}"
    return grpc.aio.secure_channel(
        address,
        credentials,
        options=[*options, _OWN_CONNECTION, ("grpc.ssl_target_name_override", name)],
    )


def certificate_trust_domain(certificate: bytes) -> str:
    """The trust domain of the first SPIFFE ID in a PEM certificate."""
    from cryptography import x509  # noqa: PLC0415 - slow to import, and only clients need it

    names = x509.load_pem_x509_certificate(certificate).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    for uri in names.value.get_values_for_type(x509.UniformResourceIdentifier):
        return SpiffeId.parse(uri).trust_domain
    raise InvalidSpiffeId("the certificate bears no SPIFFE ID")


def peer_id(context: grpc.aio.ServicerContext) -> SpiffeId | None:
    """The verified SPIFFE ID of the peer; None on a plain connection or without one."""
    names = context.auth_context().get("x509_subject_alternative_name", [])
    for name in names:
        if name.startswith(b"spiffe://"):
            try:
                return SpiffeId.parse(name.decode())
            except (InvalidSpiffeId, UnicodeDecodeError):
                return None
    return None


# One channel's back-off after failures is no other's, though both go to the same address.
_OWN_CONNECTION = ("grpc.use_local_subchannel_pool", 1)
_UNIX_AUTHORITY = ("grpc.default_authority", "localhost")  # a path is no valid HTTP/2 authority


def _configuration(material: TlsMaterial) -> grpc.ServerCertificateConfiguration:
    configuration: grpc.ServerCertificateConfiguration = grpc.ssl_server_certificate_configuration(
        [(material.key, material.certificate)], root_certificates=material.authorities
    )
    return configuration
