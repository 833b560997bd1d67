"""The development authority and the certificates of everyone who takes part in `make run`.

Layout under the home folder: `ca/`, `certs/<service>/`, `certs/tenants/<tenant>/<workload>/`.
"""

from pathlib import Path

from evenflow.certificates import (
    LIFE,
    RENEW_BEFORE,
    Authority,
    InvalidCertificate,
    is_current,
    issue,
    life_left,
    make_authority,
    read_authority,
)

TRUST_DOMAIN = "evenflow.local"
SERVICES = ("gateway", "router", "policy", "runtime", "telemetry", "operator")
TENANTS = ("acme", "globex")
WORKLOAD = "web"
LOOPBACK = ("localhost", "127.0.0.1")


def ensure_certificates(home: Path) -> int:
    """Issues what is missing or close to its end; returns how many that were."""
    authority = ensure_authority(home / "ca")
    wanted = {
        service_folder(home, name): (service_id(name), service_hosts(name)) for name in SERVICES
    }
    for tenant in TENANTS:
        wanted[tenant_folder(home, tenant)] = (tenant_id(tenant), ())
    stale = {
        folder: names
        for folder, names in wanted.items()
        if not is_current(authority, *names, folder)
    }
    for folder, (spiffe_id, hosts) in stale.items():
        issue(authority, spiffe_id, hosts, folder)
    return len(stale)


def ensure_authority(folder: Path) -> Authority:
    """Reads the authority, or makes one. It must outlive every certificate it issues."""
    try:
        authority = read_authority(folder)
    except (FileNotFoundError, InvalidCertificate):
        return make_authority(folder, TRUST_DOMAIN)
    if life_left(authority.certificate) < LIFE + RENEW_BEFORE:
        return make_authority(folder, TRUST_DOMAIN)
    return authority


def service_folder(home: Path, service: str) -> Path:
    return home / "certs" / service


def tenant_folder(home: Path, tenant: str, workload: str = WORKLOAD) -> Path:
    return home / "certs" / "tenants" / tenant / workload


def service_id(service: str) -> str:
    return f"spiffe://{TRUST_DOMAIN}/service/{service}"


def tenant_id(tenant: str, workload: str = WORKLOAD) -> str:
    return f"spiffe://{TRUST_DOMAIN}/tenant/{tenant}/{workload}"


def service_hosts(service: str) -> tuple[str, ...]:
    own = f"{service}.{TRUST_DOMAIN}"
    return (own, *LOOPBACK) if service == "gateway" else (own,)
