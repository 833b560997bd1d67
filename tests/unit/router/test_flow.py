"""What flow control promises, whatever comes, goes and leaves."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.router.core.bands import Band
from services.router.core.endings import Usage
from services.router.core.endpoints import Endpoint
from services.router.core.flow import FlowControl, Queueing
from services.router.core.lanes import Lane
from services.router.core.queue import Waiting
from services.router.core.queue_limits import QueueLimits
from services.router.core.saturation import Saturation
from services.router.core.verdicts import Reason, Refused
from tests.unit.router.test_queue import NOW_S, waiting
from tests.unit.router.values import A, B, ended, state

MAX_RUNNING = 2
TENANTS = ("acme", "globex", "initech")


@dataclass(slots=True)
class Router:
    """Flow control with one endpoint, and what it has been seen to do."""

    limits: QueueLimits = field(default_factory=QueueLimits)
    now_s: float = NOW_S
    flow: FlowControl = field(init=False)
    running: list[str] = field(default_factory=list)
    refused: dict[str, Reason] = field(default_factory=dict)
    queueing: dict[str, Queueing] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.flow = FlowControl(Saturation(), self.limits)
        self.heard()

    def heard(self, **said: Any) -> None:
        known = state(**{"max_running": MAX_RUNNING, "running": len(self.running), **said})
        self.flow.saturation.saw(Endpoint(A, known, reachable=True), self.now_s)

    def ask(self, request: Waiting) -> None:
        if self.flow.may_pass(request, self.now_s):
            self._start(request)
            return
        offered = self.flow.offer(request, self.now_s)
        if isinstance(offered, Refused):
            self.refused[request.request_id] = offered.reason
        else:
            self.queueing[request.request_id] = offered

    def look(self) -> list[str]:
        started = []
        for request, refused in self.flow.expired(self.now_s):
            self.refused[request.request_id] = refused.reason
        while (first := self.flow.next(self.now_s)) is not None:
            self._start(first)
            started.append(first.request_id)
        return started

    def end(self, request_id: str, **said: Any) -> None:
        self.running.remove(request_id)
        self.flow.freed(request_id, ended(request_id, **said), None)

    def _start(self, request: Waiting) -> None:
        assert request.request_id not in self.running, "it runs already"
        self.flow.sent(request, A, self.now_s)
        self.running.append(request.request_id)


def full(**limits: Any) -> Router:
    router = Router(QueueLimits(**limits))
    for at in range(MAX_RUNNING + 1):
        router.ask(waiting(f"full{at}", tenant="initech"))
    assert len(router.running) == MAX_RUNNING + 1
    return router


def test_what_there_is_room_for_goes_at_once() -> None:
    router = Router()

    router.ask(waiting())

    assert router.running == ["r1"]


def test_what_there_is_no_room_for_waits_until_there_is() -> None:
    router = full()
    router.ask(waiting("r1"))
    router.ask(waiting("r2"))
    assert router.look() == []

    router.end("full0")

    assert router.look() == ["r1"]
    assert [router.queueing[each].reason for each in ("r1", "r2")] == ["saturated", "behind others"]
    assert [router.queueing[each].ahead for each in ("r1", "r2")] == [0, 1]


def test_another_model_does_not_wait_behind_it() -> None:
    router = full()
    router.ask(waiting("r1"))

    router.ask(waiting("r2", lane=Lane("unlimited")))

    assert "r2" in router.running


def test_a_pool_of_ones_own_has_room_of_its_own() -> None:
    router, vault = full(), Lane("small", "vault")
    router.ask(waiting("r1"))
    known = Endpoint(B, state(max_running=1, pool="vault"), reachable=True)
    router.flow.saturation.saw(known, NOW_S)

    assert router.flow.may_pass(waiting("r2", lane=vault), NOW_S)
    router.flow.sent(waiting("r2", lane=vault), B, NOW_S)
    router.flow.sent(waiting("r3", lane=vault), B, NOW_S)
    assert not router.flow.may_pass(waiting("r4", lane=vault), NOW_S)
    assert router.look() == [], "the vault's room is nobody else's"


def test_nobody_waits_for_an_empty_pool() -> None:
    router = full()
    router.ask(waiting("r1"))
    router.flow.saturation.changed(Endpoint(A, reachable=False))

    assert router.flow.next(router.now_s) is not None, "to be refused for want of an endpoint"
    assert router.flow.may_pass(waiting("r2"), router.now_s) is False, "it is not its turn"


def test_who_leaves_is_gone_at_once_and_takes_no_room() -> None:
    router = full()
    router.ask(waiting("leaver"))
    router.ask(waiting("stays"))

    assert router.flow.left("leaver")
    assert not router.flow.left("leaver")
    router.end("full0")

    assert router.look() == ["stays"]
    assert len(router.flow) == 0


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    router = full(total=3, of_a_tenant=3)
    for tenant in TENANTS:
        router.ask(waiting(f"of {tenant}", tenant=tenant))

    refused = router.flow.offer(waiting("one more"), router.now_s)

    assert isinstance(refused, Refused)
    assert (refused.reason, refused.retry_after_s) == (Reason.QUEUE_FULL, 1.0)


def test_a_tenants_part_is_bounded() -> None:
    router = full(total=100, of_a_tenant=2)
    for at in range(3):
        router.ask(waiting(f"r{at}"))
    router.ask(waiting("other", tenant="globex"))

    assert router.refused == {"r2": Reason.TENANT_QUEUE_FULL}


def test_one_tenants_flood_leaves_half_of_the_queue_to_the_others() -> None:
    router = full(total=100, of_a_tenant=1000)
    for at in range(200):
        router.ask(waiting(f"r{at}"))
    assert len(router.flow) == 50

    for at in range(20):
        router.ask(waiting(f"g{at}", tenant="globex"))
    assert len(router.flow) == 70


@pytest.mark.parametrize("band", list(Band))
def test_a_wait_is_bounded(band: Band) -> None:
    router = full()
    limit_s = router.limits.longest_s[band]
    router.ask(waiting(band=band, deadline_s=NOW_S + 9_999.0, until_s=NOW_S + limit_s))

    router.now_s += limit_s - 0.5
    router.look()
    assert len(router.flow) == 1
    router.now_s += 0.5
    router.look()
    assert router.refused == {"r1": Reason.QUEUE_TIMEOUT}


def test_a_deadline_that_can_be_met_no_more_ends_the_wait() -> None:
    router = full()
    router.ask(waiting(deadline_s=NOW_S + 5.0))

    router.now_s += 5.0
    router.look()

    assert router.refused == {"r1": Reason.DEADLINE_UNREACHABLE}


def slow(router: Router) -> None:
    """One request of the queue each second for ten seconds."""
    for at in range(80):
        router.ask(waiting(f"slow{at}"))
    for _ in range(10):
        router.now_s += 1.0
        router.end(router.running[0], usage=Usage(10, 0, 100))
        router.heard()
        assert len(router.look()) == 1


def test_a_deadline_that_the_queue_makes_impossible_is_refused_at_once() -> None:
    router = full()
    slow(router)

    def ask(request_id: str, within_s: float, tenant: str = "acme") -> None:
        deadline_s, until_s = router.now_s + within_s, router.now_s + 300.0
        timing = {"since_s": router.now_s, "deadline_s": deadline_s, "until_s": until_s}
        router.ask(waiting(request_id, tenant=tenant, **timing))

    # The seventy that wait have fifty seconds yet, and take a second each. Waits count three times.
    ask("before them", within_s=49.0)
    ask("of another", within_s=5.0, tenant="globex")
    ask("after them", within_s=51.0)
    ask("long after them", within_s=250.0)

    assert router.refused == {"after them": Reason.DEADLINE_UNREACHABLE}
    assert router.queueing["long after them"].predicted_s == pytest.approx(72.0, rel=0.05)


def test_a_prompt_that_takes_longer_to_read_than_there_is_time_is_refused() -> None:
    router = full()
    router.end("full0", usage=Usage(1000, 0, 1), first_token_s=2.0)
    router.ask(waiting("r0"))

    router.ask(waiting("r1", prompt_tokens=4000, deadline_s=NOW_S + 7.9))

    assert router.refused == {"r1": Reason.DEADLINE_UNREACHABLE}


def test_an_output_shorter_than_reserved_is_given_back() -> None:
    router = full()
    for at in range(9):
        router.ask(waiting(f"a{at}", tenant="acme", output_tokens=1000))
        router.ask(waiting(f"g{at}", tenant="globex", output_tokens=100))

    had = Counter[str]()
    while router.flow:
        router.end(router.running[0], usage=Usage(10, 0, 100))
        router.heard()
        for each in router.look():
            had[each[0]] += 1
        assert abs(had["a"] - had["g"]) <= 3, "they have the same in the end"


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "ask", "end", "leave", "heard", "pass time"]),
        st.sampled_from(TENANTS),
        st.sampled_from(list(Band)),
    ),
    max_size=120,
)


class Life:
    """Any steps, and where each request that was ever asked about is after them."""

    def __init__(self) -> None:
        self.router = Router(QueueLimits(total=12, of_a_tenant=6))
        self.asked: list[str] = []
        self.left: set[str] = set()
        self.over: set[str] = set()

    def step(self, what: str, tenant: str, band: Band) -> None:
        router = self.router
        if what == "ask":
            self._ask(tenant, band)
        elif what == "end" and router.running:
            self.end()
        elif what == "leave":
            self.left |= {each for each in self.asked[::3] if router.flow.left(each)}
        elif what == "pass time":
            router.now_s += 7.0
        if what in ("heard", "pass time"):
            router.heard()

    def end(self) -> None:
        self.over.add(self.router.running[0])
        self.router.end(self.router.running[0])

    def places(self) -> list[list[str]]:
        waits = [each for each in self.asked if self.router.flow.holds(each)]
        return [waits, self.router.running, [*self.left], [*self.over], [*self.router.refused]]

    def _ask(self, tenant: str, band: Band) -> None:
        router, request_id = self.router, f"r{len(self.asked)}"
        self.asked.append(request_id)
        until_s = router.now_s + router.limits.longest_s[band]
        timing = {"since_s": router.now_s, "deadline_s": router.now_s + 40.0, "until_s": until_s}
        router.ask(waiting(request_id, tenant=tenant, band=band, **timing))


@settings(deadline=None)
@given(STEPS)
def test_whatever_happens_nothing_is_lost_sent_twice_or_kept_waiting_for_nothing(
    steps: list[tuple[str, str, Band]],
) -> None:
    life = Life()
    router = life.router
    for step in steps:
        life.step(*step)
        started = router.look()

        assert not life.left & set(started), "it had left"
        assert sum(router.flow.depths().values()) == len(router.flow) <= 12
        assert sorted(life.asked) == sorted(each for place in life.places() for each in place)
        assert not router.flow or len(router.running) >= MAX_RUNNING, "there is room"
    while router.running:
        life.end()
        router.heard()
        router.look()
    assert len(router.flow) == 0


def test_an_answer_that_takes_longer_to_write_than_there_is_time_is_refused() -> None:
    router = full()
    usage = Usage(10, 0, 101)
    router.end("full0", usage=usage, first_token_s=0.5, duration_s=10.5)
    router.ask(waiting("full3", tenant="initech"))

    def within(request_id: str, seconds: float) -> None:
        timing = {"deadline_s": router.now_s + seconds, "output_tokens": 200}
        router.ask(waiting(request_id, tenant="initech", **timing))

    within("too little", 9.0)
    within("enough", 11.0)

    assert router.refused == {"too little": Reason.DEADLINE_UNREACHABLE}
    assert router.flow.holds("enough")
    router.now_s += 1.5
    router.look()
    assert router.refused["enough"] is Reason.DEADLINE_UNREACHABLE, "it would be cut off"


def test_nothing_waits_where_all_may_go() -> None:
    flow = FlowControl(Saturation(), lets_all_go=True)
    flow.saturation.saw(Endpoint(A, state(max_running=1), reachable=True), NOW_S)

    for at in range(100):
        request = waiting(f"r{at}")
        assert flow.may_pass(request, NOW_S)
        flow.sent(request, A, NOW_S)
