"""`evenflow certs issue`: a certificate for a tenant's workload, by the development authority."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import typer

from evenflow.certificates import issue, read_authority
from evenflow.cli.exits import CannotWrite, NotThere
from evenflow.home import authority_folder, tenant_folder, tenant_id

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
        raise NotThere(
            f"there is no authority in {authority_folder(home)}; `make run` makes it"
        ) from error
    expires_at = datetime.now(UTC) + timedelta(days=days)
    target = folder or tenant_folder(home, tenant, workload)
    try:
        issue(authority, tenant_id(tenant, workload), (), target, expires_at=expires_at)
    except OSError as error:
        raise CannotWrite(f"can't write to {target}: {error.strerror}") from error
    typer.echo(f"{target}: {tenant_id(tenant, workload)}, until {expires_at:%Y-%m-%d}")
