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

    def serving(self) -> Iterable[ModelState]:
        return self.state.serving() if self.state else ()

    def announced(self, model: str) -> bool:
        return self.state is not None and any(each.model == model for each in self.state.models)

    def left_out(self, model: str) -> str:
        """Why it can't take a request for a model; empty: it can."""
        if self.state is None or not self.reachable:
            return "unreachable"
        readiness = {each.readiness for each in self.state.models if each.model == model}
        if not readiness:
            return "model not served"
        if self.draining:
            return "draining"
        if self.stalled:
            return "stalled"
        if Readiness.READY in readiness:
            return ""
        return "loading" if Readiness.LOADING in readiness else "failed"


class Endpoints:
    """All that the router was told of, by address. Only `saw`, `lost` and `drain` change it."""

    def __init__(self, addresses: Iterable[str]) -> None:
        self._by_address = {address: Endpoint(address) for address in sorted(addresses)}

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

    def saw(self, address: str, state: RuntimeState) -> bool:
        """Takes a runtime's state; True when it was started again since the last one."""
        before = self.get(address)
        self._by_address[address] = replace(before, state=state, reachable=True, tried=True)
        return before.state is not None and before.state.instance_id != state.instance_id

    def lost(self, address: str) -> None:
        before = self.get(address)
        self._by_address[address] = replace(before, reachable=False, tried=True)

    def drain(self, address: str) -> None:
        """Leaves it out until its process is started again."""
        before = self.get(address)
        instance = before.state.instance_id if before.state else None
        self._by_address[address] = replace(before, drained_instance=instance)
