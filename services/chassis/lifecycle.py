"""Start, ready, serve, drain, stop. Shutdown order is the reverse of start."""

import asyncio
import gc
import signal
from collections.abc import Coroutine
from typing import Any

import structlog
import uvloop

from services.chassis.revocation import UnreadableRevocations
from services.chassis.server import CannotListen, Server

# Objects more than at the last collection of the youngest generation; then how many of these
# collections go before one of the next. What it gave is in docs/performance.md.
_COLLECT_AFTER = (20_000, 10, 10)

# What an operator has to put right: a main prints it in one line. All else is a bug's traceback.
CANNOT_START = (CannotListen, UnreadableRevocations, FileNotFoundError)

_log = structlog.get_logger(__name__)


def run(main: Coroutine[Any, Any, None]) -> None:
    """Runs a service's main coroutine on uvloop until it returns.

    A failure that came alone is raised as itself, out of the task groups that it passed through.
    """
    _collect_seldom()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main)
    except ExceptionGroup as group:
        raise alone(group) from None


def alone(group: ExceptionGroup[Exception]) -> Exception:
    """The one failure in nested groups; the group itself when there are several."""
    failure: Exception = group
    while isinstance(failure, ExceptionGroup) and len(failure.exceptions) == 1:
        failure = failure.exceptions[0]
    return group if isinstance(failure, ExceptionGroup) else failure


def _collect_seldom() -> None:
    """What was imported stays, so no collection need look at it; of the rest little is cyclic."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)


async def stop_signal() -> None:
    """Returns at the first SIGTERM or SIGINT; a second one kills the process as usual."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)
    for signum in signals:
        loop.add_signal_handler(signum, stop.set)
    await stop.wait()
    for signum in signals:
        loop.remove_signal_handler(signum)


async def drain(server: Server, *, drain_s: float) -> None:
    """Says NOT_SERVING, refuses new calls, and lets running ones go on for `drain_s` at most."""
    await server.set_not_serving()
    await server.grpc.stop(drain_s)
    _log.info("server.stopped")
