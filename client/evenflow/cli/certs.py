"""`evenflow certs`: the development authority gives certificates to tenants' workloads, and says
which certificates are good no more."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import typer
from cryptography import x509

from evenflow.certificates import InvalidCertificate, issue, read_authority, revoke
from evenflow.cli.exits import CannotWrite, NotThere
from evenflow.home import authority_folder, certificate_folders, tenant_folder, tenant_id
from evenflow.revocations import spread

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")


def issue_for(
    tenant: str, workload: str, *, home: Path, folder: Path | None = None, days: int = 30
) -> None:
    for name in (tenant, workload):
        if not _NAME.fullmatch(name):
            raise typer.BadParameter(f"must be lower-case letters, digits and -, got {name!r}")
    try:
        authority = read_authority(authority_folder(home))
    except FileNotFoundError as error:
        raise _no_authority(home) from error
    expires_at = datetime.now(UTC) + timedelta(days=days)
    target = folder or tenant_folder(home, tenant, workload)
    try:
        issue(authority, tenant_id(tenant, workload), (), target, expires_at=expires_at)
    except OSError as error:
        raise CannotWrite(f"can't write to {target}: {error.strerror}") from error
    typer.echo(f"{target}: {tenant_id(tenant, workload)}, until {expires_at:%Y-%m-%d}")


def revoke_certificate(file: Path, *, home: Path) -> None:
    """Safe to repeat, and to be repeated after a failure: a folder may be without the list then."""
    certificate = _read(file / "cert.pem" if file.is_dir() else file)
    folders = certificate_folders(home)
    try:
        authority = revoke(certificate, authority_folder(home))
        for folder in folders:
            spread(authority.revoked, authority.certificate, folder)
    except FileNotFoundError as error:
        raise _no_authority(home) from error
    except OSError as error:
        raise CannotWrite(f"can't write the list: {error.strerror}; revoke it again") from error
    subject = certificate.subject.rfc4514_string().removeprefix("CN=")
    typer.echo(
        f"revoked {subject}, serial {certificate.serial_number:x}; "
        f"{len(folders)} folders have the list"
    )


def _read(file: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(file.read_bytes())
    except FileNotFoundError as error:
        raise NotThere(f"there is no certificate in {file}") from error
    except ValueError as error:
        raise InvalidCertificate(f"{file} holds no readable certificate: {error}") from error


def _no_authority(home: Path) -> NotThere:
    return NotThere(f"there is no authority in {authority_folder(home)}; `make run` makes it")
