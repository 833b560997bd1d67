"""Which models can be used now, by whom, out of what the runtimes announce."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.router.core.endpoints import Endpoint
from services.router.core.tenants import Tenant


class ModelNotFound(LookupError):
    """Not served now, or not the caller's to use; ListModels names those that are."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    name: str
    versions: Sequence[str]  # sorted
    max_context_tokens: int  # the least of the endpoints'
    endpoints: int
    first_seen_unix_s: float


class Catalogue:
    """Remembers when each model was first seen, for as long as the router runs."""

    def __init__(self) -> None:
        self._first_seen_unix_s: dict[str, float] = {}

    def notice(self, endpoints: Sequence[Endpoint], now_unix_s: float) -> None:
        for endpoint in endpoints:
            for each in endpoint.serving():
                self._first_seen_unix_s.setdefault(each.model, now_unix_s)

    def served_to(self, tenant: Tenant, endpoints: Sequence[Endpoint]) -> Sequence[ServedModel]:
        """By name; only what is served in the pools that its classes go to."""
        pools = {tenant.pool_for(each) for each in tenant.workload_classes}
        ready = [each for each in endpoints if each.ready and each.pool in pools]
        names = {each.model for endpoint in ready for each in endpoint.serving()}
        return [self._served(name, ready) for name in sorted(names) if tenant.may_use(name)]

    def get(self, name: str, tenant: Tenant, endpoints: Sequence[Endpoint]) -> ServedModel:
        for model in self.served_to(tenant, endpoints):
            if model.name == name:
                return model
        raise ModelNotFound(f"no model {name[:100]!a} is served to tenant {tenant.id}")

    def _served(self, name: str, ready: Sequence[Endpoint]) -> ServedModel:
        states = [each for endpoint in ready for each in endpoint.serving() if each.model == name]
        return ServedModel(
            name=name,
            versions=sorted({each.version for each in states}),
            max_context_tokens=min(each.max_context_tokens for each in states),
            endpoints=sum(not each.left_out(name, each.pool) for each in ready),
            first_seen_unix_s=self._first_seen_unix_s.get(name, 0.0),
        )
