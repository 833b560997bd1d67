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
from evenflow.home import (
    TRUST_DOMAIN,
    authority_folder,
    service_folder,
    service_id,
    service_name,
    tenant_folder,
    tenant_id,
)

SERVICES = ("gateway", "router", "policy", "runtime", "telemetry", "operator")
TENANTS = ("acme", "globex")
LOOPBACK = ("localhost", "127.0.0.1")


def ensure_certificates(home: Path) -> int:
    """Issues what is missing or close to its end; returns how many that were."""
    authority = ensure_authority(authority_folder(home))
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


def service_hosts(service: str) -> tuple[str, ...]:
    own = service_name(service)
    return (own, *LOOPBACK) if service == "gateway" else (own,)
