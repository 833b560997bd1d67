"""`python -m deploy.local run`: the whole mesh on this machine, until Ctrl-C.

`simulate` is the same mesh on the simulated engine, for tests and benchmarks. `restart` restarts
the programs of a mesh that runs, all or those that are named, and no request fails.
"""

import os
import signal
import subprocess
import sys
from types import FrameType

from deploy.local.engines import SIMULATED
from deploy.local.preflight import CannotRun
from deploy.local.readiness import ServiceFailed
from deploy.local.restart import CannotRestart, restart
from deploy.local.run import run
from deploy.local.settings import Settings, asked_engine
from deploy.local.supervision import SupervisorDied
from deploy.models.smollm2 import CannotGetModel
from deploy.vllm.install import CannotInstall
from evenflow.errors import EvenflowError
from services.chassis.environ import EX_CONFIG, InvalidConfig

COMMANDS = ("run", "simulate", "restart")
USAGE = "usage: python -m deploy.local run | simulate | restart [PROGRAM...]"
INTERRUPTED = 128 + signal.SIGINT  # as shells have it
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
FAILURES = (
    *(CannotRun, CannotRestart, CannotGetModel, CannotInstall, subprocess.CalledProcessError),
    *(ServiceFailed, SupervisorDied, EvenflowError),
)


def main(arguments: list[str]) -> int:
    command, *programs = arguments or [""]
    if command not in COMMANDS or (programs and command != "restart"):
        print(
            "usage: python -m deploy.local run | simulate | restart [PROGRAM...]", file=sys.stderr
        )
        return os.EX_USAGE
    try:
        settings = Settings.from_environ(os.environ)
        engine = SIMULATED if command == "simulate" else asked_engine(os.environ)
    except InvalidConfig as error:
        print(f"evenflow: {error}", file=sys.stderr)
        return EX_CONFIG
    os.umask(0o077)
    for signum in STOPPING:
        signal.signal(signum, _interrupt)
    try:
        if command == "restart":
            restart(settings, programs)
        else:
            run(settings, engine)
    except KeyboardInterrupt:
        return INTERRUPTED if command == "restart" else 0
    except BrokenPipeError:  # whoever read our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except FAILURES as error:
        print(f"evenflow: {error}", file=sys.stderr)
        return 1
    return 0


def _interrupt(_signum: int, _frame: FrameType | None) -> None:
    for signum in STOPPING:
        signal.signal(signum, signal.SIG_IGN)  # a second Ctrl-C must not break the ending
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
