"""vLLM in the suite's shape, on the bundled model; runs in vLLM's own environment."""

import sys
from pathlib import Path

from deploy.models import smollm2
from services.runtime.core.engine import Engine
from services.runtime.outbound.vllm import VllmEngine, VllmSettings
from tests.contract.engines import shape

_HOME = Path(__file__).parents[3] / ".evenflow"


def build() -> Engine:
    return VllmEngine(
        VllmSettings(
            model_path=smollm2.hugging_face(_HOME, Path(sys.executable)),
            model=smollm2.MODEL,
            version=smollm2.VERSION,
            max_context_tokens=shape.MAX_CONTEXT_TOKENS,
            max_running=shape.MAX_RUNNING,
            kv_cache_bytes=128 << 20,
            kv_block_tokens=32,
            max_step_tokens=128,
            eager=True,
        )
    )
