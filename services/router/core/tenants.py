"""Who may do what: one snapshot of the policy, indexed by identity. Who is not in it is denied."""

import hashlib
import hmac
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeVar

from services.router.core.budgets import NO_PRICES, Account, Budget, Prices, window_start
from services.router.core.demands import WorkloadClass
from services.router.core.rungs import Rung
from services.router.core.value import value

_ANY = "*"

K = TypeVar("K")
V = TypeVar("V")


class InvalidSnapshot(ValueError):
    """Two tenants claim one identity; keep the snapshot before."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """Known by one of its two hashes; the other one is empty."""

    sha256: bytes
    workload: str
    hmac_sha256: bytes = b""  # under the mesh's key secret: of a key that policy has made
    expires_unix_s: float | None = None  # None: it has no end
    id: str = ""  # a name for logs, not secret

    def is_good(self, now_unix_s: float) -> bool:
        return self.expires_unix_s is None or now_unix_s < self.expires_unix_s


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one tenant over all routers. 0: none."""

    requests_per_minute: int = 0
    tokens_per_minute: int = 0  # prompt and output
    concurrent_requests: int = 0  # let go and not ended
    kv_share: float = 0.0  # of the KV blocks of the endpoints that serve it, held at once


NO_LIMITS = Limits()  # of all tenants without any: the same object, so that asking costs nothing


@dataclass(frozen=True, slots=True)
class Tenant:
    id: str
    spiffe_ids: Sequence[str]  # the last segment may be "*"
    api_keys: Sequence[ApiKey]
    models: frozenset[str]  # "*" for all
    workload_classes: frozenset[WorkloadClass]
    default_workload_class: WorkloadClass
    max_context_tokens: int  # 0: the model's own limit
    max_output_tokens: int  # 0: the model's own limit
    weight: int = 1  # share of the mesh beside other tenants that wait
    pool: str = ""  # its own: only endpoints of this pool; empty: it has none
    class_pools: Mapping[WorkloadClass, str] = field(default_factory=dict)  # where a class has one
    limits: Limits = NO_LIMITS
    budgets: Sequence[Budget] = ()

    def pool_for(self, workload_class: WorkloadClass) -> str:
        """The boundary of its requests of a class: its own pool, else the class's, else the shared
        one, which is empty. Nobody else decides it."""
        return self.pool or self.class_pools.get(workload_class, "")

    def may_use(self, model: str) -> bool:
        return model in self.models or _ANY in self.models

    def accounts(self, workload: str, unix_s: float) -> Iterator[Account]:
        """What a request of that workload counts in, at that time."""
        for each in self.budgets:
            if not each.workload or each.workload == workload:
                yield each.name, window_start(each.window, unix_s)


@value
class Caller:
    tenant: Tenant
    workload: str
    key: ApiKey | None = None  # None: told by certificate

    @property
    def key_id(self) -> str:
        """Of its API key; empty: it has a certificate."""
        return self.key.id if self.key else ""


@dataclass(frozen=True, slots=True)
class ClassRules:
    """What a workload class gets, whoever asks."""

    ladder: Sequence[Rung] = ()  # what is given up, when, in order
    resume: bool = False  # a stream that broke may be carried on
    cache_ttl_s: float = 0.0  # how long answers are kept; 0: not at all


class Tenants:
    """Raises InvalidSnapshot on construction if an identity has two owners."""

    def __init__(
        self,
        version: str,
        tenants: Iterable[Tenant],
        classes: Mapping[WorkloadClass, ClassRules] = MappingProxyType({}),
        *,
        prices: Prices = NO_PRICES,
        key_secret: bytes = b"",
    ) -> None:
        self.version = version
        self.prices = prices
        self._key_secret = key_secret
        self._classes = classes
        self.has_ladders = any(each.ladder for each in classes.values())
        self._by_id: dict[str, Tenant] = {}
        self._by_spiffe_id: dict[str, Tenant] = {}
        self._by_sha256: dict[bytes, Caller] = {}
        self._by_hmac: dict[bytes, Caller] = {}
        for tenant in tenants:
            _claim(self._by_id, tenant.id, tenant)
            for spiffe_id in tenant.spiffe_ids:
                _claim(self._by_spiffe_id, spiffe_id, tenant)
            for key in tenant.api_keys:
                owners, digest = self._place(key)
                _claim(owners, digest, Caller(tenant, key.workload, key))

    def rules(self, workload_class: WorkloadClass) -> ClassRules:
        return self._classes.get(workload_class, _DEFAULT_RULES)

    def by_id(self, tenant_id: str) -> Tenant | None:
        return self._by_id.get(tenant_id)

    def by_spiffe_id(self, spiffe_id: str) -> Caller | None:
        """The owner of a verified SPIFFE ID; its last segment names the workload."""
        folder, _, workload = spiffe_id.rpartition("/")
        if not workload or workload == _ANY:
            return None  # a certificate must not speak for a pattern
        tenant = self._by_spiffe_id.get(spiffe_id) or self._by_spiffe_id.get(f"{folder}/{_ANY}")
        return Caller(tenant, workload) if tenant else None

    def by_api_key(self, key: str) -> Caller | None:
        """Who has it, expired or not."""
        secret = key.encode(errors="replace")
        caller = self._by_sha256.get(hashlib.sha256(secret).digest())
        if caller is None and self._by_hmac:
            return self._by_hmac.get(hmac.digest(self._key_secret, secret, hashlib.sha256))
        return caller

    def now_of(self, key: ApiKey, tenant_id: str) -> ApiKey | None:
        """What it is by now, and None when it is this tenant's no more. Another secret under its id
        is another key; the same one may have another end."""
        owners, digest = self._place(key)
        caller = owners.get(digest)
        return caller.key if caller is not None and caller.tenant.id == tenant_id else None

    def _place(self, key: ApiKey) -> tuple[dict[bytes, Caller], bytes]:
        if key.hmac_sha256:
            return self._by_hmac, key.hmac_sha256
        return self._by_sha256, key.sha256


class PolicyView:
    """The latest snapshot, for as long as policy may be silent."""

    def __init__(self, *, stale_after_s: float) -> None:
        self._stale_after_s = stale_after_s
        self._tenants: Tenants | None = None
        self._heard_at_s = 0.0

    @property
    def version(self) -> str:
        return self._tenants.version if self._tenants else ""

    @property
    def latest(self) -> Tenants | None:
        """However old; for what was decided by it already."""
        return self._tenants

    def replaced(self, tenants: Tenants, now_s: float) -> None:
        self._tenants = tenants
        self._heard_at_s = now_s

    def confirmed(self, now_s: float) -> None:
        """Policy lives, and nothing has changed."""
        self._heard_at_s = now_s

    def current(self, now_s: float) -> Tenants | None:
        """None before the first snapshot and when the last word is too old to act on."""
        if now_s - self._heard_at_s > self._stale_after_s:
            return None
        return self._tenants


def _claim(owners: dict[K, V], identity: K, owner: V) -> None:
    if owners.setdefault(identity, owner) is not owner:
        raise InvalidSnapshot("two tenants claim one identity")


_DEFAULT_RULES = ClassRules()
