"""Where a development mesh keeps its certificates, and what its identities are called.

`make run` writes this layout; the `evenflow` command reads it.
"""

from pathlib import Path

TRUST_DOMAIN = "evenflow.local"
WORKLOAD = "web"  # of the demo tenants


def authority_folder(home: Path) -> Path:
    return home / "ca"


def service_folder(home: Path, service: str) -> Path:
    return home / "certs" / service


def tenant_folder(home: Path, tenant: str, workload: str = WORKLOAD) -> Path:
    return home / "certs" / "tenants" / tenant / workload


def salt_file(home: Path) -> Path:
    """Of the secrets that routers make cache salts with, a line for each epoch."""
    return home / "secrets" / "cache-salt"


def certificate_folders(home: Path) -> list[Path]:
    """Every folder that holds a certificate."""
    found = {file.parent for file in (home / "certs").rglob("cert.pem")}
    return sorted(folder for folder in found if not folder.name.startswith(".."))


def service_id(service: str) -> str:
    return f"spiffe://{TRUST_DOMAIN}/service/{service}"


def tenant_id(tenant: str, workload: str = WORKLOAD) -> str:
    return f"spiffe://{TRUST_DOMAIN}/tenant/{tenant}/{workload}"


def service_name(service: str) -> str:
    """The DNS name in a service's certificate."""
    return f"{service}.{TRUST_DOMAIN}"
