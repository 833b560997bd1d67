"""The simulated engine: the engine port over the simulation, driven by the event loop's clock.

One timer serves all streams, so that hundreds of them cost little. It says that it is simulated
in its name, its version and its text.
"""

import asyncio
import signal
from collections.abc import AsyncGenerator, Sequence

from services.runtime.core import simulated_text
from services.runtime.core.engine import EngineFailed, EngineState, Job, Message, Step
from services.runtime.core.simulation import Behaviour, Simulation

_HANGING_LOOK_S = 0.01
_SLACK_S = 0.005  # a late wake-up is made good in the next step; a longer stall is not


class SimulatedEngine:
    name = "simulated"

    """`hang_on_signal`: SIGUSR1 stops all steps, and the next one lets them go on."""

    def __init__(
        self, behaviour: Behaviour, *, model: str = "simulated", hang_on_signal: bool = False
    ) -> None:
        self.model = model
        self.version = "simulated"
        self.max_context_tokens = behaviour.max_context_tokens
        self._simulation = Simulation(behaviour)
        self._streams: dict[str, asyncio.Queue[Step | EngineFailed]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._hang_on_signal = hang_on_signal
        self._hangs = False

    async def start(self) -> None:
        """Nothing is loaded."""
        if self._hang_on_signal:
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self.hang_or_go_on)

    def hang_or_go_on(self) -> None:
        self._hangs = not self._hangs

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for stream in self._streams.values():
            stream.put_nowait(EngineFailed("the engine was closed"))

    async def encode_chat(self, messages: Sequence[Message]) -> Sequence[int]:
        return simulated_text.encode_chat(messages)

    async def encode_text(self, text: str) -> Sequence[int]:
        return simulated_text.encode(text)

    async def generate(self, job: Job) -> AsyncGenerator[Step, None]:
        loop = asyncio.get_running_loop()
        self._simulation.add(job, loop.time())
        stream = self._streams[job.request_id] = asyncio.Queue()
        if self._timer is None:
            self._begin_step(loop, loop.time())
        try:
            while True:
                step = await stream.get()
                if isinstance(step, EngineFailed):
                    raise step
                yield step
                if step.finish_reason is not None:
                    return
        finally:
            del self._streams[job.request_id]
            self._simulation.remove(job.request_id)

    def state(self) -> EngineState:
        return self._simulation.state()

    def _begin_step(self, loop: asyncio.AbstractEventLoop, now_s: float) -> None:
        length_s = self._simulation.begin_step(now_s)
        if length_s is None:
            self._timer = None
            return
        at_s = now_s + length_s
        self._timer = loop.call_at(at_s, self._finish_step, loop, at_s)

    def _finish_step(self, loop: asyncio.AbstractEventLoop, at_s: float) -> None:
        if self._hangs:
            self._timer = loop.call_later(_HANGING_LOOK_S, self._finish_step, loop, at_s)
            return
        for request_id, step in self._simulation.finish_step():
            if request_id in self._streams:
                self._streams[request_id].put_nowait(step)
        # Steps follow each other without drift, unless the loop itself fell behind by a step.
        self._begin_step(loop, max(at_s, loop.time() - _SLACK_S))
