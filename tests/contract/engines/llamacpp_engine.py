"""llama.cpp with the bundled model in the suite's shape."""

import os
from pathlib import Path

from deploy.models import smollm2
from services.runtime.core.engine import Engine
from services.runtime.outbound.llamacpp import LlamaCppEngine, LlamaCppSettings
from tests.contract.engines import shape


def build() -> Engine:
    home = Path(os.environ.get("EVENFLOW_HOME", ".evenflow"))
    return LlamaCppEngine(
        LlamaCppSettings(
            gguf=smollm2.gguf(home),
            model=smollm2.MODEL,
            version=smollm2.VERSION,
            max_running=shape.MAX_RUNNING,
            max_context_tokens=shape.MAX_CONTEXT_TOKENS,
            threads=2,
        )
    )
