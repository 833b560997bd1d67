"""Makes vLLM's own environment, away from the project's, and says how far it is.

On a CPU the packages are exactly those of requirements.lock, not resolved anew (its header says
why), beside PyTorch's CPU build. A GPU node resolves requirements-gpu.txt.
"""

import ctypes.util
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Sequence
from pathlib import Path

TORCH = "torch==2.13.0+cpu"

_HERE = Path(__file__).parent
_LOCK = _HERE / "requirements.lock"
_GPU = _HERE / "requirements-gpu.txt"
_PROGRESS_EVERY_S = 5.0


class CannotInstall(Exception):
    """vLLM's environment could not be made; the message says what to do."""


def install(home: Path, *, gpu: bool = False) -> Path:
    """The python of vLLM's environment below `home`, which is made or made anew if it is stale."""
    folder = home / "vllm"
    python = folder / "bin" / "python"
    stamp = folder / "installed"
    wanted = _digest(gpu=gpu)
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    if not gpu:
        _check_libnuma()
    started_at_s = time.monotonic()
    print("vllm: installing into an environment of its own (about 2.5 GB)", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    _run_together(_gpu_steps(python) if gpu else _cpu_steps(python), watched=folder)
    stamp.write_text(wanted)
    took_s = time.monotonic() - started_at_s
    print(f"vllm: installed {_size_mb(folder)} MB in {took_s:.0f} s", flush=True)
    return python


def _digest(*, gpu: bool) -> str:
    sources = [_GPU.read_bytes()] if gpu else [_LOCK.read_bytes(), TORCH.encode()]
    return hashlib.sha256(b"\n".join([*sources, sys.version.encode()])).hexdigest()


def _check_libnuma() -> None:
    if ctypes.util.find_library("numa") is None:
        raise CannotInstall("vLLM on a CPU needs libnuma: apt-get install libnuma1")


def _cpu_steps(python: Path) -> list[list[str]]:
    """Two installers side by side: only pip reads the settings that say where PyTorch's build is,
    and uv is five times as fast for the rest."""
    torch = [str(python), "-m", "pip", "install", "--no-deps", "--progress-bar", "off", TORCH]
    rest = [*_uv(python), "--no-deps", "--require-hashes", "--requirement", str(_LOCK)]
    return [torch, rest]


def _gpu_steps(python: Path) -> list[list[str]]:
    return [[*_uv(python), "--requirement", str(_GPU)]]


def _uv(python: Path) -> list[str]:
    command = [sys.executable, "-m", "uv", "pip", "install", "--no-progress", "--compile-bytecode"]
    return [*command, "--python", str(python)]


def _run_together(commands: Sequence[list[str]], *, watched: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder) / str(i) for i in range(len(commands))]
        running = [_start(command, log) for command, log in zip(commands, logs, strict=True)]
        try:
            for process in running:
                _await(process, watched)
        finally:
            for process in running:
                process.kill()  # nothing, once it has ended
                process.wait()
        for process, log in zip(running, logs, strict=True):
            if process.returncode != 0:
                raise CannotInstall(_explained(log.read_text()))


def _start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    environ = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    with log.open("wb") as file:
        return subprocess.Popen(  # noqa: S603 - ours
            command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environ
        )


def _await(process: subprocess.Popen[bytes], watched: Path) -> None:
    while True:
        try:
            process.wait(_PROGRESS_EVERY_S)
        except subprocess.TimeoutExpired:
            print(f"vllm: {_size_mb(watched)} MB so far", flush=True)
        else:
            return


def _explained(log: str) -> str:
    if f"No matching distribution found for {TORCH}" in log:
        return (
            f"{TORCH} was not found. It is PyTorch's own CPU build: add PyTorch's CPU wheel index "
            "to pip's configuration (extra-index-url), or run on a GPU node"
        )
    return f"the installer failed:\n{log[-4000:]}"


def _size_mb(folder: Path) -> int:
    size_bytes = 0
    for root, _, files in os.walk(folder):
        size_bytes += sum(os.lstat(os.path.join(root, name)).st_size for name in files)  # noqa: PTH118 - os.walk speaks strings
    return size_bytes // 1_000_000
