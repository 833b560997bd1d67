"""Builds the engine that the configuration names. Each is imported only when it is named."""

import dataclasses
from collections.abc import Mapping

from services.chassis.environ import InvalidConfig
from services.runtime.config import Config, SimulatedConfig
from services.runtime.core.engine import Engine


def build(config: Config, variables: Mapping[str, str]) -> Engine:
    """Raises InvalidConfig."""
    if config.engine == "simulated":
        return _simulated(config, variables)
    return _vllm(config) if config.engine == "vllm" else _llamacpp(config)


def _simulated(config: Config, variables: Mapping[str, str]) -> Engine:
    from services.runtime.core.simulation import Behaviour  # noqa: PLC0415
    from services.runtime.outbound.simulated import SimulatedEngine  # noqa: PLC0415

    told = dataclasses.asdict(SimulatedConfig.from_environ(variables))
    hang_on_signal = told.pop("hang_on_signal")
    try:
        behaviour = Behaviour(
            max_running=config.max_running, max_context_tokens=config.max_context_tokens, **told
        )
    except ValueError as error:
        raise InvalidConfig(f"RUNTIME_SIMULATED: {error}") from error
    return SimulatedEngine(behaviour, model=config.model, hang_on_signal=hang_on_signal)


def _llamacpp(config: Config) -> Engine:
    from services.runtime.outbound.llamacpp import (  # noqa: PLC0415
        PREFILL_CHUNK_TOKENS,
        LlamaCppEngine,
        LlamaCppSettings,
    )

    assert config.model_path is not None, "Config requires it"
    return LlamaCppEngine(
        LlamaCppSettings(
            gguf=config.model_path,
            model=config.model,
            version=config.model_version,
            max_running=config.max_running,
            max_context_tokens=config.max_context_tokens,
            threads=config.threads,
            prefill_chunk_tokens=config.step_tokens or PREFILL_CHUNK_TOKENS,
        )
    )


def _vllm(config: Config) -> Engine:
    from services.runtime.outbound.vllm import VllmEngine, VllmSettings  # noqa: PLC0415

    assert config.model_path is not None, "Config requires it"
    return VllmEngine(
        VllmSettings(
            model_path=config.model_path,
            model=config.model,
            version=config.model_version,
            max_context_tokens=config.max_context_tokens,
            max_running=config.max_running,
            kv_cache_bytes=config.kv_cache_mib << 20 if config.kv_cache_mib else None,
            kv_block_tokens=_VLLM_BLOCK_TOKENS,
            max_step_tokens=config.step_tokens,
            eager=config.eager,
        )
    )


_VLLM_BLOCK_TOKENS = 32  # the least that its CPU build takes
