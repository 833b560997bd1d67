"""What tokens weigh when endpoints are compared: the one place where it is said.

An endpoint's cost for a request is the work before it and in it, in prompt tokens to be computed:

    prefill * (prompt tokens in flight there + the prompt's own)
    + decode * (output tokens in flight there, at most)
    - cached * (tokens of the prompt that it is expected to have cached)
    + evicted * (the other tokens of the prompt, if its prefix cache is full)
    + kv * (tokens that its KV cache lacks to take the request)

The endpoint with the lowest cost is picked. The form is Dynamo's KV router's. All weights zero is
round robin, `cached` and `evicted` alone zero is least load.
"""

import math
from dataclasses import astuple, dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Weights:
    # The unit: a prompt token that an engine has yet to compute delays every later one by its time.
    prefill: float = 1.0
    # A written token takes an engine two to ten times as long as a read one when it runs alone, but
    # it is written in one step with those of others, and callers let write four times what is
    # written. It delays a new prompt by a fraction of its step only.
    decode: float = 0.25
    # What is cached need not be computed.
    cached: float = 1.0
    # What is computed where the cache is full costs more than its own time: it evicts as much that
    # somebody else comes back for. Simulated conversations gain until about 3 (docs/picking.md).
    # Where there is room it costs nothing, so a prompt that many share spreads at once.
    evicted: float = 3.0
    # A request without room waits until another ends, which takes longer than computing as many
    # tokens; so missing ones count twice.
    kv: float = 2.0

    def __post_init__(self) -> None:
        if not all(0 <= each < math.inf for each in astuple(self)):
            raise ValueError(f"weights must be at least 0, got {self}")

    def scaled(self, load: float, *, cached: float) -> Self:
        return type(self)(
            prefill=self.prefill * load,
            decode=self.decode * load,
            cached=self.cached * cached,
            evicted=self.evicted * cached,
            kv=self.kv * load,
        )
