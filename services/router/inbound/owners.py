"""Who asks: the tenant that owns the certificate or the key, or why it is nobody."""

from services.router.core.tenants import Caller, Tenants
from services.router.core.verdicts import Reason, Refused
from services.router.inbound.asked import Asked

_COME_BACK_S = 1.0  # policy streams again within seconds of being back

POLICY_STALE = Refused(
    Reason.POLICY_STALE,
    "the router has not heard from policy for too long",
    retry_after_s=_COME_BACK_S,
)
CERTIFICATE_REVOKED = Refused(
    Reason.CERTIFICATE_REVOKED, "the certificate is revoked; connect with another"
)
UNKNOWN_IDENTITY = Refused(Reason.UNKNOWN_IDENTITY, "no tenant owns this certificate or API key")

KEY_EXPIRED = Refused(Reason.KEY_EXPIRED, "the API key's time is over; ask for another")


def owner_of(question: Asked, tenants: Tenants) -> Caller | None:
    if question.spiffe_id is not None:
        return tenants.by_spiffe_id(question.spiffe_id)
    return tenants.by_api_key(question.api_key) if question.api_key else None
