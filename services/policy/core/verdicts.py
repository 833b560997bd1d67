"""What a policy says to a request, as far as the request alone decides: who asks, whether it may
use the model and the class, and how much it wants to write and to read.

The router's admission decides in the same order. Not judged: rates, concurrency, budgets, waits,
deadlines, endpoints, and whether a stream may be carried on.
"""

from dataclasses import dataclass

from services.policy.core.tenants import Policy, Tenant, WorkloadClass

ADMITTED = ""

_ANY = "*"
_UNKNOWN = "UNKNOWN_IDENTITY"
_BEFORE_IDENTITY = frozenset({"CERTIFICATE_REVOKED", "POLICY_STALE", "REQUEST_INVALID"})
_BEFORE_ADMISSION = frozenset({"FIELD_INVALID", "BODY_INVALID", "MODEL_NOT_FOUND"})
_JUDGED = frozenset(
    {
        *(_UNKNOWN, "MODEL_NOT_ALLOWED", "WORKLOAD_CLASS_NOT_ALLOWED"),
        *("OUTPUT_LIMIT", "CONTEXT_LIMIT"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedDecision:
    """What a router decided, and all that it takes to decide it again. Of one who is known by
    certificate or by API key, the other is empty; of nobody, both may be."""

    request_id: str
    unix_s: float
    spiffe_id: str = ""
    key_id: str = ""  # in its tenant
    tenant: str = ""  # as it was known then
    workload: str = ""
    model: str = ""
    workload_class: str = ""  # that was asked for; empty: none
    prompt_tokens: int = 0
    exact: bool = False  # they were counted; otherwise estimated
    output_tokens: int | None = None  # that were asked for; None: not said
    outcome: str = ADMITTED  # or the reason of its refusal


class Judge:
    """Decides by one policy. `live`: the one that was in force, which knows the digests of keys."""

    def __init__(self, policy: Policy, live: Policy) -> None:
        self._tenants = {each.id: each for each in policy.tenants}
        self._identities = {name: each for each in policy.tenants for name in each.spiffe_ids}
        self._keys = {key.sha256: each for each in policy.tenants for key in each.api_keys}
        self._digests = {
            (each.id, key.id): key.sha256 for each in live.tenants for key in each.api_keys
        }

    def would(self, decision: RecordedDecision) -> str:
        """What would have come of it: what was recorded, where the policy has no say in that."""
        was = decision.outcome
        if was in _BEFORE_IDENTITY:
            return was
        tenant = self._tenant(decision)
        if tenant is None:
            return _UNKNOWN
        if was in _BEFORE_ADMISSION or not decision.model:
            return ADMITTED if was == _UNKNOWN else was
        said = verdict(decision, tenant)
        return said if said or was in _JUDGED else was

    def _tenant(self, decision: RecordedDecision) -> Tenant | None:
        if decision.spiffe_id:
            return self._by_spiffe_id(decision.spiffe_id)
        if not decision.key_id:
            return None
        digest = self._digests.get((decision.tenant, decision.key_id))
        if digest is None:  # of a key that is in no file, its tenant's whatever the file says
            return self._tenants.get(decision.tenant)
        return self._keys.get(digest)

    def _by_spiffe_id(self, spiffe_id: str) -> Tenant | None:
        folder, _, workload = spiffe_id.rpartition("/")
        if not workload or workload == _ANY:
            return None  # a certificate must not speak for a pattern
        return self._identities.get(spiffe_id) or self._identities.get(f"{folder}/{_ANY}")


def verdict(decision: RecordedDecision, tenant: Tenant) -> str:
    """The first reason to refuse what a tenant asks for, or ADMITTED."""
    if decision.model not in tenant.models and _ANY not in tenant.models:
        return "MODEL_NOT_ALLOWED"
    if _class_of(decision, tenant) not in tenant.workload_classes:
        return "WORKLOAD_CLASS_NOT_ALLOWED"
    asked = decision.output_tokens
    if asked and 0 < tenant.max_output_tokens < asked:
        return "OUTPUT_LIMIT"
    least = decision.prompt_tokens + (asked or 1)
    if decision.exact and 0 < tenant.max_context_tokens < least:
        return "CONTEXT_LIMIT"
    return ADMITTED


def _class_of(decision: RecordedDecision, tenant: Tenant) -> WorkloadClass:
    asked = decision.workload_class
    return WorkloadClass(asked) if asked else tenant.default_workload_class
