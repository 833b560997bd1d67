"""What befalls runtimes at random: they are killed, stand still, are slowed, or their engines hang.

Each fault ends by itself. A runtime is struck again once it has run for so long that supervisord
does not take its next death for a failed start; several may be struck at once.
"""

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import psutil

from benchmarks.mesh import Mesh
from deploy.local.control import SOCKET, Control, NoSupervisor

FAULTS = ("killed", "paused", "slowed", "hung")
APART_S = (1.0, 5.0)  # from one fault to the next
LASTS_S = (0.3, 5.0)  # below and above what is noticed: silence of 0.8 s, a stall of 2 and of 3 s
SLOW_BEAT_S = 0.1
SLOW_SHARE = 0.8  # of each beat it stands still
_LOOK_EVERY_S = 0.1


@dataclass(slots=True)
class Faults:
    """`seed` decides what befalls whom and when, save that nobody is struck twice at once."""

    mesh: Mesh
    runtimes: int
    seed: int = 1
    struck: Counter[str] = field(default_factory=Counter)
    _over: threading.Event = field(default_factory=threading.Event)
    _ends: list[threading.Thread] = field(default_factory=list)
    _unwell: set[str] = field(default_factory=set)

    @contextmanager
    def at_random(self) -> Iterator[None]:
        """When the body is left, no fault lasts on; who was killed may not be back yet."""
        thread = threading.Thread(target=self._strike)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()
            for each in self._ends:
                each.join()

    def all_run(self, *, within_s: float) -> bool:
        control = Control(self.mesh.home / "run" / SOCKET)
        tick = threading.Event()
        for _ in range(round(within_s / _LOOK_EVERY_S)):
            if {each.status for each in control.states().values()} == {"RUNNING"}:
                return True
            tick.wait(_LOOK_EVERY_S)
        return False

    def _strike(self) -> None:
        rng = random.Random(self.seed)  # noqa: S311 - what befalls whom must repeat
        began_s = time.monotonic()
        while not self._over.wait(rng.uniform(*APART_S)):
            name = f"runtime-{rng.randint(1, self.runtimes)}"
            fault, lasts_s = rng.choice(FAULTS), rng.uniform(*LASTS_S)
            process = self._well(name)
            if process is None:
                continue
            self.struck[fault] += 1
            at_s = time.monotonic() - began_s
            lasts = "" if fault == "killed" else f" for {lasts_s:.1f} s"
            print(f"{at_s:6.1f} s: {name} is {fault}{lasts}", flush=True)
            self._begin(fault, name, process, lasts_s)

    def _well(self, name: str) -> psutil.Process | None:
        if name in self._unwell:
            return None
        with suppress(NoSupervisor, psutil.NoSuchProcess):
            state = Control(self.mesh.home / "run" / SOCKET).states()[name]
            return psutil.Process(state.pid) if state.status == "RUNNING" else None
        return None

    def _begin(self, fault: str, name: str, process: psutil.Process, lasts_s: float) -> None:
        if fault == "killed":
            _send(process, signal.SIGKILL)
            return
        self._unwell.add(name)
        thread = threading.Thread(target=self._last, args=(fault, name, process, lasts_s))
        self._ends.append(thread)
        thread.start()

    def _last(self, fault: str, name: str, process: psutil.Process, lasts_s: float) -> None:
        begins, ends = _SIGNALS[fault]
        if fault == "slowed":
            self._slow(process, lasts_s)
        else:
            _send(process, begins)
            self._over.wait(lasts_s)
        _send(process, ends)
        self._unwell.discard(name)

    def _slow(self, process: psutil.Process, lasts_s: float) -> None:
        for _ in range(round(lasts_s / SLOW_BEAT_S)):
            _send(process, signal.SIGSTOP)
            over = self._over.wait(SLOW_SHARE * SLOW_BEAT_S)
            _send(process, signal.SIGCONT)
            if over or self._over.wait((1.0 - SLOW_SHARE) * SLOW_BEAT_S):
                return


def _send(process: psutil.Process, signum: signal.Signals) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(signum)


_SIGNALS: dict[str, Sequence[signal.Signals]] = {
    "paused": (signal.SIGSTOP, signal.SIGCONT),
    "slowed": (signal.SIGSTOP, signal.SIGCONT),
    "hung": (signal.SIGUSR1, signal.SIGUSR1),  # RUNTIME_SIMULATED_HANG_ON_SIGNAL
}
