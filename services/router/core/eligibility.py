"""Which endpoints may serve a model to the tenants of a pool, by what runtimes say of themselves.

What changes with each request (load, circuits) is picking's. This changes seldom, and is worked out
anew only then: a thousand endpoints are too many to ask one by one for each request.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from services.router.core.endpoints import Endpoint, Endpoints
from services.router.core.value import value

_MOST_KEPT = 1000  # models times pools


@value
class KvCache:
    """Of several endpoints together. 0: none of them says."""

    blocks: int = 0
    block_tokens: int = 0  # the largest, where they differ

    def blocks_of(self, tokens: int) -> int:
        return -(-tokens // self.block_tokens) if self.block_tokens else 0


_UNSAID = KvCache()


@dataclass(frozen=True, slots=True)
class Eligible:
    addresses: Sequence[str] = ()  # of those that can be used, by address
    members: frozenset[str] = frozenset()  # the same
    left_out: Mapping[str, str] = field(default_factory=dict)  # why, by address
    announced: bool = False  # some runtime has named the model
    unknown: bool = False  # no runtime has, and every one was asked
    kv_cache: KvCache = _UNSAID  # of those that can be used

    @property
    def reasons(self) -> Mapping[str, int]:
        return Counter(self.left_out.values())


class Eligibility:
    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints
        self._revision = -1
        self._known: dict[tuple[str, str], Eligible] = {}

    def of(self, model: str, pool: str) -> Eligible:
        if self._revision != self._endpoints.revision or len(self._known) > _MOST_KEPT:
            self._known.clear()
            self._revision = self._endpoints.revision
        found = self._known.get((model, pool))
        if found is None:
            found = self._known[model, pool] = _eligible(self._endpoints.all(), model, pool)
        return found


def _eligible(endpoints: Sequence[Endpoint], model: str, pool: str) -> Eligible:
    why = {each.address: each.left_out(model, pool) for each in endpoints}
    announced = any(each.announced(model) for each in endpoints)
    seen = any(each.state is not None for each in endpoints)
    addresses = tuple(address for address, reason in why.items() if not reason)
    return Eligible(
        addresses=addresses,
        members=frozenset(addresses),
        left_out={address: reason for address, reason in why.items() if reason},
        announced=announced,
        # Just started, or cut off from all, nobody knows.
        unknown=not announced and seen and all(each.tried for each in endpoints),
        kv_cache=_kv_cache(each for each in endpoints if not why[each.address]),
    )


def _kv_cache(endpoints: Iterable[Endpoint]) -> KvCache:
    states = [each.state for each in endpoints if each.state and each.state.kv_block_tokens]
    block_tokens = max((each.kv_block_tokens for each in states), default=0)
    tokens = sum(each.kv_blocks_total * each.kv_block_tokens for each in states)
    return KvCache(tokens // block_tokens, block_tokens) if tokens else _UNSAID
