"""The simulated engine in the suite's shape, slow enough to be caught in the middle."""

from services.runtime.core.engine import Engine
from services.runtime.core.simulation import Behaviour
from services.runtime.outbound.simulated import SimulatedEngine
from tests.contract.engines import shape


def build() -> Engine:
    return SimulatedEngine(
        Behaviour(
            step_s=0.002,
            prefill_per_token_s=0.0005,
            prefill_chunk_tokens=64,
            max_running=shape.MAX_RUNNING,
            max_context_tokens=shape.MAX_CONTEXT_TOKENS,
            kv_blocks=shape.MAX_RUNNING * shape.MAX_CONTEXT_TOKENS // 16,
        )
    )
