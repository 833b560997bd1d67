"""What `overhead` measures: loads by the letters that comparisons of rival routers use for them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# One step of the simulated engine each; its length does not grow with what it does, so that
# whatever stands before the engine sees the same load.
_ENGINE = {
    "RUNTIME_SIMULATED_MEAN_ANSWER_TOKENS": "100000",  # never ends by itself
    "RUNTIME_MAX_RUNNING": "512",
    "RUNTIME_MAX_CONTEXT_TOKENS": "8192",
    "RUNTIME_SIMULATED_KV_BLOCKS": "65536",
    "RUNTIME_SIMULATED_PREFILL_CHUNK_TOKENS": "100000",
    "RUNTIME_SIMULATED_PREFILL_PER_TOKEN_S": "1e-9",
    "RUNTIME_SIMULATED_STEP_PER_SEQUENCE_S": "1e-9",
    "ROUTER_TRACE_SHARE": "0.01",
}


def engine(step_s: float) -> dict[str, str]:
    return {**_ENGINE, "RUNTIME_SIMULATED_STEP_S": str(step_s)}


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    what: str
    load: Mapping[str, Any]  # fields of load.Order
    step_s: float  # from token to token
    times: bool = False  # whether its latencies mean anything: nothing is saturated


CASES = (
    Case(
        "b",
        "50 requests/s (Poisson), 64 tokens 20 ms apart",
        {"per_s": 50.0, "for_s": 10.0, "tokens": 64},
        0.02,
        times=True,
    ),
    Case(
        "b2",
        "256 streams at once, 128 tokens 40 ms apart",
        {"at_once": 256, "for_s": 6.0, "tokens": 128},
        0.04,
    ),
    Case(
        "a",
        "64 streams at once, 128 tokens without delay",
        {"at_once": 64, "for_s": 3.0, "tokens": 128},
        1e-6,
    ),
    Case(
        "c",
        "32 short answers at once, not streamed, prompts of 100 bytes",
        {"at_once": 32, "for_s": 4.0, "tokens": 4, "streamed": False, "prompt_bytes": 100},
        1e-6,
    ),
    Case(
        "c16k",
        "as c, with prompts of 16 KiB",
        {"at_once": 32, "for_s": 4.0, "tokens": 4, "streamed": False, "prompt_bytes": 16 << 10},
        1e-6,
    ),
)
MEMORY_STREAMS = (64, 512)
MEMORY_STEP_S = 0.1
MEMORY_TOKENS = 32
