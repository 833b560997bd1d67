"""What the router knows of each runtime that it was told of: its last state and whether it lives.

An endpoint leaves at once when its stream ends or falls silent; it comes back with its next
state. Which of them Envoy may use at all is `in_service`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

# More than ten times the longest step of our engines. A runtime waits longer (RUNTIME_STALL_S)
# before it ends what runs there: to stay away by mistake costs less.
STALLED_AFTER_S = 2.0


OUTSIDE = "outside the boundary"  # of the tenant's pool


class UnknownEndpoint(LookupError):
    """No runtime has that address; ask for one that ListEndpoints names."""


class Readiness(Enum):
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


class Standing(Enum):
    """What an endpoint is to new requests; of several that hold, the first here."""

    UNREACHABLE = "unreachable"
    DRAINING = "draining"
    STALLED = "stalled"
    EJECTED = "ejected"  # by what its requests told; it does not know itself
    READY = "ready"
    LOADING = "loading"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ModelState:
    model: str
    version: str
    readiness: Readiness
    max_context_tokens: int


@dataclass(frozen=True, slots=True)
class RuntimeState:
    instance_id: str  # differs after each start of the process
    engine: str
    models: Sequence[ModelState]
    draining: bool = False
    running: int = 0
    waiting: int = 0
    kv_blocks_free: int = 0
    kv_blocks_total: int = 0
    kv_block_tokens: int = 0
    prefix_cache_query_tokens: int = 0
    prefix_cache_hit_tokens: int = 0
    max_running: int = 0
    output_tokens: int = 0
    without_progress_s: float = 0.0  # while its engine has work
    pool: str = ""  # whose tenants alone it serves; empty: the shared one

    @property
    def stalled(self) -> bool:
        """Its engine hangs, as far as one can tell; it may go on."""
        return self.without_progress_s >= STALLED_AFTER_S

    def serving(self) -> Iterable[ModelState]:
        return (each for each in self.models if each.readiness is Readiness.READY)


@dataclass(frozen=True, slots=True)
class Endpoint:
    address: str
    state: RuntimeState | None = None  # the last one; None: never seen
    reachable: bool = False
    tried: bool = False  # it was seen, or a try to reach it has failed
    drained_instance: str | None = None  # emptied by an operator until it is started again

    @property
    def draining(self) -> bool:
        return self.state is not None and (
            self.state.draining or self.state.instance_id == self.drained_instance
        )

    @property
    def stalled(self) -> bool:
        return self.state is not None and self.state.stalled

    @property
    def pool(self) -> str:
        return self.state.pool if self.state else ""

    @property
    def ready(self) -> bool:
        """New requests may go there."""
        return self.reachable and not self.draining and not self.stalled and any(self.serving())

    @property
    def standing(self) -> Standing:
        if self.state is None or not self.reachable:
            return Standing.UNREACHABLE
        if self.draining:
            return Standing.DRAINING
        if self.stalled:
            return Standing.STALLED
        readiness = {each.readiness for each in self.state.models}
        if Readiness.READY in readiness:
            return Standing.READY
        return Standing.FAILED if readiness == {Readiness.FAILED} else Standing.LOADING

    @property
    def free(self) -> bool:
        """It has a place for one more, as far as its last state tells.

        Those who wait may have come since its last step: while it has places, they get theirs with
        the next one, and so would one more.
        """
        state = self.state
        if state is None:
            return False
        if not state.max_running:
            return not state.waiting
        return state.running + state.waiting < state.max_running

    def serving(self) -> Iterable[ModelState]:
        return self.state.serving() if self.state else ()

    def announced(self, model: str) -> bool:
        return self.state is not None and any(each.model == model for each in self.state.models)

    def left_out(self, model: str, pool: str = "") -> str:
        """Why it can't take a request for a model from a pool's tenant; empty: it can."""
        if self.state is None or not self.reachable:
            return "unreachable"
        readiness = {each.readiness for each in self.state.models if each.model == model}
        reasons = {
            OUTSIDE: self.pool != pool,
            "model not served": not readiness,
            "draining": self.draining,
            "stalled": self.stalled,
            "": Readiness.READY in readiness,
            "loading": Readiness.LOADING in readiness,
        }
        return next((reason for reason, holds in reasons.items() if holds), "failed")


class Endpoints:
    """All that the router was told of, by address. Only `saw`, `lost` and `drain` change it."""

    def __init__(self, addresses: Iterable[str]) -> None:
        self._by_address = {address: Endpoint(address) for address in sorted(addresses)}
        self.revision = 0  # another one whenever what they may be used for has changed

    def __len__(self) -> int:
        return len(self._by_address)

    def all(self) -> Sequence[Endpoint]:
        """By address."""
        return tuple(self._by_address.values())

    def in_service(self) -> Sequence[str]:
        """Addresses that Envoy may send new requests to."""
        return tuple(each.address for each in self._by_address.values() if each.ready)

    def get(self, address: str) -> Endpoint:
        try:
            return self._by_address[address]
        except KeyError:
            raise UnknownEndpoint(f"no runtime has the address {address}") from None

    def is_free(self, address: str) -> bool:
        return self.get(address).free

    def saw(self, address: str, state: RuntimeState) -> bool:
        """Takes a runtime's state; True when it was started again since the last one."""
        before = self.get(address)
        self._put(before, replace(before, state=state, reachable=True, tried=True))
        return before.state is not None and before.state.instance_id != state.instance_id

    def lost(self, address: str) -> None:
        before = self.get(address)
        self._put(before, replace(before, reachable=False, tried=True))

    def drain(self, address: str) -> None:
        """Leaves it out until its process is started again."""
        before = self.get(address)
        instance = before.state.instance_id if before.state else None
        self._put(before, replace(before, drained_instance=instance))

    def _put(self, before: Endpoint, after: Endpoint) -> None:
        self._by_address[after.address] = after
        if _use(before) != _use(after):
            self.revision += 1


def _use(endpoint: Endpoint) -> tuple[object, ...]:
    """All that `left_out` and `announced` look at, and the size of its KV cache."""
    return (
        endpoint.reachable,
        endpoint.tried,
        endpoint.draining,
        endpoint.stalled,
        endpoint.pool,
        endpoint.state and endpoint.state.models,
        endpoint.state and endpoint.state.kv_blocks_total,
        endpoint.state and endpoint.state.kv_block_tokens,
    )
