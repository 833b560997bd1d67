"""Finds out that the engine is stuck, lets its callers go, and takes new ones when it goes on.

Callers without a first token are tried elsewhere by the gateway. A job of our own stays with the
engine: it is work that shows when the engine goes on, once nobody else has any there.
"""

import asyncio
from contextlib import aclosing, suppress

import structlog

from services.runtime.core.engine import EngineFailed, Job
from services.runtime.core.progress import LOOK_EVERY_S, Progress
from services.runtime.core.sampling import Sampling
from services.runtime.inbound.serving import Serving

_PROBE = Job(
    request_id="progress-probe",
    prompt=(1,),
    max_output_tokens=1,
    sampling=Sampling(),
    priority=0,
    cache_salt="progress-probe",
)
_log = structlog.get_logger(__name__)


class StallWatch:
    """`stall_s`: how long the engine may have work and make no step."""

    def __init__(self, serving: Serving, *, stall_s: float) -> None:
        self._serving = serving
        self._stall_s = stall_s

    async def run(self) -> None:
        """Until it is cancelled."""
        clock = asyncio.get_running_loop().time
        progress = Progress(now_s=clock())
        probe: asyncio.Task[None] | None = None
        async with asyncio.TaskGroup() as tasks:
            while True:
                without_s = progress.without_s(self._serving.engine.state(), clock())
                self._serving.without_progress_s = without_s
                if without_s >= self._stall_s and not self._serving.patience.stalled:
                    if probe is None or probe.done():
                        probe = tasks.create_task(self._probe())
                    await asyncio.sleep(0)  # it is the engine's work before the callers' is gone
                    self._stall(without_s)
                elif without_s == 0.0 and self._serving.patience.stalled:
                    self._go_on()
                await asyncio.sleep(LOOK_EVERY_S)

    def _stall(self, without_s: float) -> None:
        let_go = self._serving.patience.end()
        _log.error("engine.stalled", without_progress_s=round(without_s, 3), let_go=let_go)

    def _go_on(self) -> None:
        self._serving.patience.begin()
        _log.warning("engine.goes_on")

    async def _probe(self) -> None:
        with suppress(EngineFailed):
            async with aclosing(self._serving.engine.generate(_PROBE)) as steps:
                async for _ in steps:
                    pass
