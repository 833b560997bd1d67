"""Flow control before the simulated engine, in virtual time: what it costs, and whom it protects.

Ends are told 100 ms late, as by the gateway's access log, and the engine's state every 100 ms.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from services.router.core.bands import Band
from services.router.core.endings import Usage
from services.router.core.endpoints import Endpoint
from services.router.core.flow import FlowControl, Queueing
from services.router.core.queue import Waiting
from services.router.core.queue_limits import QueueLimits
from services.router.core.saturation import Saturation
from services.runtime.core.engine import Job, Step
from services.runtime.core.sampling import Sampling
from services.runtime.core.simulation import Behaviour, Simulation
from tests.unit.router.test_queue import waiting
from tests.unit.router.values import A, ended, state

TOLD_AFTER_S = 0.1
REPORTS_EVERY_S = 0.1
TICK_S = 0.005
MAX_RUNNING = 8
ENOUGH = QueueLimits(total=10_000, of_a_tenant=10_000)


@dataclass(slots=True)
class Engine:
    simulation: Simulation = field(
        default_factory=lambda: Simulation(Behaviour(max_running=MAX_RUNNING))
    )
    most_waiting: int = 0
    _step_ends_s: float | None = None

    def add(self, request: Waiting, now_s: float) -> None:
        prompt = [1] * request.prompt_tokens
        job = Job(
            request_id=request.request_id,
            prompt=prompt,
            max_output_tokens=request.output_tokens,
            sampling=Sampling(ignore_eos=True),
            priority=0,
            cache_salt=request.tenant,
        )
        self.simulation.add(job, now_s)

    def turn(self, now_s: float) -> Sequence[str]:
        """Who has ended by now."""
        over: list[str] = []
        while self._step_ends_s is None or self._step_ends_s <= now_s:
            if self._step_ends_s is not None:
                over += [
                    request_id
                    for request_id, step in self.simulation.finish_step()
                    if isinstance(step, Step) and step.finish_reason is not None
                ]
            began_s = now_s if self._step_ends_s is None else self._step_ends_s
            takes_s = self.simulation.begin_step(began_s)
            self.most_waiting = max(self.most_waiting, self.simulation.state().waiting)
            if takes_s is None:
                self._step_ends_s = None
                break
            self._step_ends_s = began_s + takes_s
        return over


class Router:
    def __init__(self) -> None:
        self.now_s = 0.0
        self.engine = Engine()
        self.flow = FlowControl(Saturation(), ENOUGH)
        self.over: dict[str, float] = {}
        self._untold: deque[tuple[float, Waiting]] = deque()
        self._running: dict[str, Waiting] = {}
        self._report_s = 0.0

    def ask(self, *requests: Waiting) -> None:
        for each in requests:
            if self.flow.may_pass(each, self.now_s):
                self._send(each)
            else:
                assert isinstance(self.flow.offer(each, self.now_s), Queueing)

    def run_until(self, holds: Callable[[], bool]) -> float:
        while not holds():
            self.now_s += TICK_S
            assert self.now_s < 1000.0, "it stands still"
            self._tick()
        return self.now_s

    def _tick(self) -> None:
        for request_id in self.engine.turn(self.now_s):
            self.over[request_id] = self.now_s
            self._untold.append((self.now_s + TOLD_AFTER_S, self._running.pop(request_id)))
        if self.now_s >= self._report_s:
            self._report()
        while self._untold and self._untold[0][0] <= self.now_s:
            _, request = self._untold.popleft()
            usage = Usage(request.prompt_tokens, 0, request.output_tokens)
            self.flow.freed(request.request_id, ended(request.request_id, usage=usage), None)
        while (first := self.flow.next(self.now_s)) is not None:
            self._send(first)

    def _report(self) -> None:
        self._report_s = self.now_s + REPORTS_EVERY_S
        now = self.engine.simulation.state()
        said = state(max_running=now.max_running, running=now.running, waiting=now.waiting)
        self.flow.saturation.saw(Endpoint(A, said, reachable=True), self.now_s)

    def _send(self, request: Waiting) -> None:
        self.flow.sent(request, A, self.now_s)
        self._running[request.request_id] = request
        self.engine.add(request, self.now_s)


def requests(
    tenant: str, number: int, *, tokens: int, band: Band = Band.INTERACTIVE
) -> list[Waiting]:
    far_s = {"since_s": 0.0, "deadline_s": 900.0, "until_s": 900.0}
    return [
        waiting(f"{tenant}{at}", tenant=tenant, band=band, output_tokens=tokens, **far_s)
        for at in range(number)
    ]


def all_at_once_s(asked: Sequence[Waiting]) -> float:
    """What the engine takes when it is given all of it: nobody's order is faster."""
    engine, over, now_s = Engine(), 0, 0.0
    for each in asked:
        engine.add(each, now_s)
    while over < len(asked):
        now_s += TICK_S
        over += len(engine.turn(now_s))
    return now_s


@pytest.mark.parametrize(("tokens", "number"), [(4, 1200), (16, 200), (64, 120), (256, 60)])
def test_throughput_is_nearly_that_of_an_engine_that_is_given_everything(
    tokens: int, number: int
) -> None:
    asked = requests("acme", number, tokens=tokens)
    router = Router()
    router.run_until(lambda: router.now_s > 0.0)
    began_s = router.now_s

    router.ask(*asked)
    took_s = router.run_until(lambda: len(router.over) == number) - began_s

    assert all_at_once_s(asked) / took_s >= 0.94


def test_the_engine_holds_little_more_than_it_runs() -> None:
    router = Router()
    router.run_until(lambda: router.now_s > 0.0)

    router.ask(*requests("acme", 100, tokens=64))
    router.run_until(lambda: len(router.over) == 100)

    assert router.engine.most_waiting <= MAX_RUNNING


def test_a_flood_of_one_tenant_delays_another_by_a_turn_and_not_by_the_flood() -> None:
    router = Router()
    router.run_until(lambda: router.now_s > 0.0)
    router.ask(*requests("acme", 400, tokens=64))
    router.run_until(lambda: len(router.over) > 40)
    flood_over = len(router.over)

    router.ask(*requests("globex", 4, tokens=64))
    router.run_until(lambda: "globex3" in router.over)

    assert len(router.over) - flood_over - 4 <= 4 * MAX_RUNNING


def test_two_floods_get_the_same_and_batches_a_tenth() -> None:
    router = Router()
    router.run_until(lambda: router.now_s > 0.0)
    floods = [requests(each, 300, tokens=32) for each in ("acme", "globex")]
    batches = requests("initech", 100, tokens=32, band=Band.BATCH)
    router.ask(*floods[0], *batches, *floods[1])
    router.run_until(lambda: len(router.over) == 300)

    had = Counter(request_id.rstrip("0123456789") for request_id in router.over)

    assert abs(had["acme"] - had["globex"]) <= 2 * MAX_RUNNING
    assert had["initech"] == pytest.approx(30, abs=MAX_RUNNING / 2)


def test_other_routers_requests_at_the_engine_leave_so_much_less_room() -> None:
    router = Router()
    for at, each in enumerate(requests("other", MAX_RUNNING, tokens=1000)):
        router.engine.add(each, float(at) * 0.0)
    router.run_until(lambda: router.now_s > 2 * REPORTS_EVERY_S)

    router.ask(*requests("acme", 10, tokens=16))
    router.run_until(lambda: router.now_s > 5.0)

    assert len(router.flow) >= 9
