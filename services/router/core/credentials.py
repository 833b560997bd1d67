"""What a caller showed: kept with its request, which may go on for as long as it is good."""

from collections.abc import Callable
from enum import Enum

from services.router.core.tenants import ApiKey, Tenants
from services.router.core.value import value


@value
class Credential:
    """A key, or a certificate by the SPIFFE ID and the serial in it."""

    key: ApiKey | None = None
    spiffe_id: str = ""
    serial: str = ""


class Cut(Enum):
    """Why a request that runs must not go on."""

    API_KEY_REVOKED = "api_key_revoked"  # or it has expired, or its tenant has left
    CERTIFICATE_REVOKED = "certificate_revoked"  # or nobody owns its SPIFFE ID any more


NO_CREDENTIAL = Credential()


def cut(
    credential: Credential,
    tenant_id: str,
    tenants: Tenants | None,
    revoked: Callable[[str], bool],
    *,
    now_unix_s: float,
) -> Cut | None:
    """None: it may go on. `tenants` None: policy has been silent for too long to say who has left;
    what is known by itself, an end and a list of serials, still counts."""
    key = credential.key
    if key is not None:
        known = key if tenants is None else tenants.now_of(key, tenant_id)
        is_good = known is not None and known.is_good(now_unix_s)
        return None if is_good else Cut.API_KEY_REVOKED
    if credential.serial and revoked(credential.serial):
        return Cut.CERTIFICATE_REVOKED
    if not credential.spiffe_id or tenants is None:
        return None
    caller = tenants.by_spiffe_id(credential.spiffe_id)
    is_owner = caller is not None and caller.tenant.id == tenant_id
    return None if is_owner else Cut.CERTIFICATE_REVOKED
