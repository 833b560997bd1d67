"""Which engine this machine runs, and what it takes to run it."""

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deploy.local.preflight import check_disk, check_memory
from deploy.models import smollm2
from deploy.vllm.environment import environment
from deploy.vllm.install import install

GB = 1_000_000_000
MOST_THREADS = 8  # a model this small gets no faster with more
KV_CACHE_MIB = 256  # 11,000 tokens of SmolLM2-135M: five requests of the longest context
CPU_STEP_TOKENS = 128  # a cancel waits for the step under way: 100 ms on one core
SIMULATED = "simulated"  # no model at all; never what `make run` starts


@dataclass(frozen=True, slots=True)
class Needs:
    memory_bytes: int  # of one runtime, as measured, and a fifth more
    disk_bytes: int  # for what is fetched once
    ready_within_s: float  # from start to the last runtime's readiness, on two slow cores


NEEDS = {
    "llamacpp": Needs(memory_bytes=int(0.75 * GB), disk_bytes=GB // 2, ready_within_s=60),
    "vllm": Needs(memory_bytes=int(2.3 * GB), disk_bytes=5 * GB, ready_within_s=300),
    SIMULATED: Needs(memory_bytes=GB // 5, disk_bytes=GB // 5, ready_within_s=60),
}


@dataclass(frozen=True, slots=True)
class Engine:
    """Ready to be started."""

    name: str
    model: str  # its name for clients
    version: str
    weights: Path | None  # file or folder; None: it has none
    python: Path
    environ: Mapping[str, str] = field(default_factory=dict)


def has_gpu() -> bool:
    return shutil.which("nvidia-smi") is not None or Path("/dev/nvidia0").exists()


def check_engine(name: str, downloads: Path, *, runtimes: int) -> None:
    """Raises CannotRun, before anything is fetched or started."""
    needs = NEEDS[name]
    check_memory(runtimes * needs.memory_bytes, what=f"{runtimes} x {name}")
    fetched = downloads / ("vllm" if name == "vllm" else "envoy")
    if not fetched.exists():
        what = f"a first start with {name}"
        check_disk(downloads, needs.disk_bytes, what=what, elsewhere="EVENFLOW_DOWNLOADS")


def prepare_engine(name: str, downloads: Path, *, runtimes: int) -> Engine:
    """Fetches what is missing. Prints its progress, since it may take minutes."""
    own = Path(sys.executable)
    if name == SIMULATED:
        return Engine(name, SIMULATED, SIMULATED, weights=None, python=own)
    cores = len(os.sched_getaffinity(0))
    if name == "llamacpp":
        threads = max(1, min(MOST_THREADS, cores // runtimes))
        weights, environ = smollm2.gguf(downloads), {"RUNTIME_THREADS": str(threads)}
        return Engine(name, smollm2.MODEL, smollm2.VERSION, weights, own, environ)
    gpu = has_gpu()
    python = install(downloads, gpu=gpu)
    weights = smollm2.hugging_face(downloads, python)
    environ = {
        **environment(gpu=gpu, replicas_here=runtimes, cores=cores),
        "RUNTIME_KV_CACHE_MIB": str(KV_CACHE_MIB),
        **({} if gpu else {"RUNTIME_EAGER": "true", "RUNTIME_STEP_TOKENS": str(CPU_STEP_TOKENS)}),
    }
    return Engine(name, smollm2.MODEL, smollm2.VERSION, weights, python, environ)
