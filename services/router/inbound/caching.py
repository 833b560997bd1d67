"""What Check asks the response cache, and what it tells it. docs/adr/0008 says why.

A request that nobody has opted in costs two comparisons. The digest of one that is costs less than
a millisecond, since larger requests are left alone.
"""

import hmac
import secrets
from collections.abc import Iterable, Sequence

from services.router.core.demands import CacheUse, Demand, Repeatable, WorkloadClass
from services.router.core.endpoints import Endpoint, Endpoints
from services.router.core.replays import Replay, Replays
from services.router.core.requests import Decision
from services.router.core.response_cache import Answer, Expected, ResponseCache
from services.router.core.salts import CacheSalts, SaltSecret
from services.router.core.tenants import Caller, ClassRules, Tenant, Tenants
from services.router.core.value import value
from services.router.core.verdicts import Hit
from services.router.inbound.resources.names import CACHED_HEADER

_MOST_REQUEST_BYTES = 256 << 10


@value
class Repeating:
    """One request, as far as the cache looks at it."""

    method: str
    demand: Demand
    caller: Caller

    @property
    def tenant(self) -> Tenant:
        return self.caller.tenant

    @property
    def workload_class(self) -> WorkloadClass:
        return self.demand.workload_class or self.tenant.default_workload_class


@value
class Consulted:
    """`outcome` as in ExplainResponse.cache."""

    outcome: str = ""
    key: str = ""  # empty: the answer is not to be kept
    ttl_s: float = 0.0
    answer: Answer | None = None


class Caching:
    """`most_bytes` 0: nothing is kept. `router` names this process, which alone is sent answers."""

    def __init__(self, salts: CacheSalts, *, most_bytes: int, default_ttl_s: float) -> None:
        self.router = secrets.token_hex(8)
        self.cache = ResponseCache(most_bytes=most_bytes)
        self.replays = Replays()
        self._salts = salts
        self._on = most_bytes > 0
        self._default_ttl_s = default_ttl_s
        self._retained_for: Tenants | None = None

    @property
    def on(self) -> bool:
        return self._on

    def consult(
        self, wanted: Repeating, tenants: Tenants, endpoints: Endpoints, now_s: float
    ) -> Consulted:
        repeatable = wanted.demand.repeatable
        if repeatable is None or not self._on:
            return NOT_ASKED
        ttl_s = self._ttl_s(repeatable, tenants.rules(wanted.workload_class))
        if not ttl_s:
            return NOT_ASKED
        if not _usable(repeatable, wanted.workload_class):
            return _BYPASSED
        key = self._key(wanted, repeatable)
        answer = self.cache.find(wanted.tenant.id, key, ttl_s=ttl_s, now_s=now_s)
        if answer is None or not _served(answer, wanted.demand.model, endpoints.all()):
            return Consulted("miss", key, ttl_s)
        return Consulted("hit", answer=answer)

    def sent(
        self, consulted: Consulted, tenant: Tenant, *, until_s: float
    ) -> Iterable[tuple[str, str]]:
        """A runtime is given the request, and until then to answer it; what it is told of us."""
        if consulted.outcome:
            self.cache.outcomes[consulted.outcome] += 1
        if consulted.key:
            self.cache.expect(consulted.key, Expected(tenant.id, consulted.ttl_s, until_s))
            yield "x-evenflow-cache-key", f"{self.router}.{consulted.key}"

    def promise(self, decision: Decision, hit: Hit, now_s: float) -> Iterable[tuple[str, str]]:
        """Envoy is sent to us for it; what it is told."""
        self.cache.outcomes["hit"] += 1
        replay = Replay(hit.answer, decision.received_unix_s)
        self.replays.promise(decision.request_id, replay, now_s)
        yield CACHED_HEADER, "hit"
        yield "x-envoy-upstream-rq-timeout-ms", str(max(1, int(hit.timeout_s * 1000)))

    def stop(self) -> None:
        """No more hits: a router that ends can't be sure to give what it promises."""
        self._on = False

    def expire(self, tenants: Tenants | None, now_s: float) -> None:
        """Forgets what is too old, and what belongs to tenants that policy knows no more."""
        self.cache.expire(now_s)
        self.replays.expire(now_s)
        if tenants is not None and tenants is not self._retained_for:
            self._retained_for = tenants
            self.cache.retain(lambda tenant: tenants.by_id(tenant) is not None)

    def _ttl_s(self, repeatable: Repeatable, rules: ClassRules) -> float:
        """0: nobody has opted in."""
        if not rules.cache_ttl_s and repeatable.use is CacheUse.ALLOW:
            return self._default_ttl_s
        return rules.cache_ttl_s

    def _key(self, wanted: Repeating, repeatable: Repeatable) -> str:
        """Of all that determines the answer, save the model's version, which the answer tells.

        Keyed by the request's salt, so that nobody outside can know it, and a new secret empties
        the cache.
        """
        tenant = wanted.tenant
        limits = (
            f"{wanted.method}\n{tenant.max_context_tokens}\n{tenant.max_output_tokens}\n".encode()
        )
        salt = self._salts.of(wanted.caller, wanted.workload_class).encode()
        return hmac.digest(salt, limits + repeatable.content(), "sha256").hex()


def _served(answer: Answer, model: str, endpoints: Sequence[Endpoint]) -> bool:
    """Whether a runtime, be it away or not, has last announced the version that answered."""
    return any(
        each.model == model and each.version == answer.model_version
        for endpoint in endpoints
        if endpoint.state is not None
        for each in endpoint.state.models
    )


def _usable(repeatable: Repeatable, workload_class: WorkloadClass) -> bool:
    return (
        repeatable.deterministic
        and repeatable.use is not CacheUse.BYPASS
        and workload_class is not WorkloadClass.HIGH_RISK
        and repeatable.request_bytes <= _MOST_REQUEST_BYTES
    )


NOT_ASKED = Consulted()
_BYPASSED = Consulted("bypass")


def no_caching() -> Caching:
    return Caching(CacheSalts(SaltSecret(bytes(16))), most_bytes=0, default_ttl_s=0.0)
