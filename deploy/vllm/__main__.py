"""python -m deploy.vllm install | test: make vLLM's environment, or run the engine tests in it."""

import os
import subprocess
import sys
from pathlib import Path

from deploy.models.smollm2 import CannotGetModel, hugging_face
from deploy.vllm.environment import environment
from deploy.vllm.install import CannotInstall, install

_ROOT = Path(__file__).parents[2]
_USAGE = "usage: python -m deploy.vllm install|test [arguments for pytest]"
EX_USAGE = 64


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in {"install", "test"}:
        print(_USAGE, file=sys.stderr)
        return EX_USAGE
    home = Path(os.environ.get("EVENFLOW_HOME", _ROOT / ".evenflow"))
    try:
        python = install(home)
        hugging_face(home, python)
    except (CannotInstall, CannotGetModel) as error:
        print(f"vllm: {error}", file=sys.stderr)
        return 1
    return _test(python, arguments[1:]) if arguments[0] == "test" else 0


def _test(python: Path, arguments: list[str]) -> int:
    command = [str(python), "-m", "pytest", "tests/contract/engines", "--engine", "vllm"]
    command += ["-o", "python_files=test_*.py vllm_only.py"]
    command += ["-W", "ignore::DeprecationWarning"]  # torch's and vLLM's, at their own imports
    command += ["-W", "ignore::ResourceWarning"]  # vLLM leaves a zmq context to the collector
    cores = len(os.sched_getaffinity(0))
    environ = {**os.environ, **environment(gpu=False, replicas_here=1, cores=cores)}
    return subprocess.run([*command, *arguments], cwd=_ROOT, env=environ, check=False).returncode  # noqa: S603 - ours


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
