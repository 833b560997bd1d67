"""Virtual token counters against what the paper promises of them (arXiv 2401.00588)."""

from collections import Counter, deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.router.core.fairness import INPUT_WEIGHT, OUTPUT_WEIGHT, Standing, Turns, service

LONGEST_PROMPT, LONGEST_OUTPUT, SLOTS = 100, 50, 3
# 2 max(w_in L_in, w_out M): M is what may be written at once, by all slots together.
BOUND = 2 * max(INPUT_WEIGHT * LONGEST_PROMPT, OUTPUT_WEIGHT * LONGEST_OUTPUT * SLOTS)
SIZES = st.lists(
    st.tuples(st.integers(1, LONGEST_PROMPT), st.integers(1, LONGEST_OUTPUT), st.booleans()),
    min_size=60,  # enough for an unfairness to add up
    max_size=120,
)
WEIGHTS = st.sampled_from([1, 2, 7])


class Server:
    """Runs SLOTS requests at once, of tenants that always have more, and hears outputs late."""

    def __init__(self, weights: dict[str, int]) -> None:
        self.turns = Turns()
        self.weights = weights
        self.had: Counter[str] = Counter()  # service, not divided by the weight
        self._running: deque[tuple[str, int, int, float]] = deque()

    def wait(self, tenant: str) -> None:
        self.turns.enter(tenant)

    def step(self, prompt: int, output: int, *, last_first: bool = False) -> str:
        if len(self._running) == SLOTS:
            self.end(last_first=last_first)
        tenant = self.turns.first()
        assert tenant is not None
        charged = service(prompt, self.turns.predicted_output(tenant, LONGEST_OUTPUT))
        self.turns.charge(tenant, charged, weight=self.weights[tenant])
        self.had[tenant] += int(INPUT_WEIGHT * prompt)
        self._running.append((tenant, prompt, output, charged))
        return tenant

    def end(self, *, last_first: bool) -> None:
        tenant, prompt, output, charged = (
            self._running.pop() if last_first else self._running.popleft()
        )
        self.had[tenant] += int(OUTPUT_WEIGHT * output)
        given_ = service(prompt, output) - charged
        self.turns.charge(tenant, given_, weight=self.weights[tenant])
        self.turns.wrote(tenant, output)

    def apart(self, one: str, other: str) -> float:
        return abs(self.had[one] / self.weights[one] - self.had[other] / self.weights[other])


@settings(deadline=None)
@given(SIZES, WEIGHTS, WEIGHTS)
def test_two_backlogged_tenants_never_differ_by_more_than_the_bound(
    sizes: list[tuple[int, int, bool]], acme: int, globex: int
) -> None:
    server = Server({"acme": acme, "globex": globex})
    server.wait("acme")
    server.wait("globex")

    for prompt, output, last_first in sizes:
        server.step(prompt, output, last_first=last_first)
        assert server.apart("acme", "globex") <= BOUND


@settings(deadline=None)
@given(SIZES, st.integers(0, 60))
def test_who_comes_back_from_idle_has_saved_nothing_up(
    sizes: list[tuple[int, int, bool]], away: int
) -> None:
    server = Server({"acme": 1, "globex": 1, "back": 1})
    server.wait("acme")
    server.wait("globex")
    for _ in range(away):
        server.step(LONGEST_PROMPT, LONGEST_OUTPUT)
    before = Counter(server.had)

    server.wait("back")
    for prompt, output, last_first in sizes:
        server.step(prompt, output, last_first=last_first)

    mine = server.had["back"]
    assert all(mine <= server.had[each] - before[each] + 2 * BOUND for each in ("acme", "globex"))


def test_who_comes_while_nobody_waits_begins_where_the_last_one_is() -> None:
    turns = Turns()
    turns.charge("acme", 1000.0, weight=1)

    turns.enter("globex")

    assert turns.counter("globex") == 1000.0


@settings(deadline=None)
@given(st.lists(st.sampled_from(["acme", "globex", "initech"]), max_size=60))
def test_the_next_is_the_one_with_the_least_counter(charged: list[str]) -> None:
    turns, counters = Turns(), Counter[str]()
    for tenant in ("acme", "globex", "initech"):
        turns.enter(tenant)
    for at, tenant in enumerate(charged):
        given_ = -5.0 if at % 3 == 2 else 10.0
        turns.charge(tenant, given_, weight=1)
        counters[tenant] += int(given_)

        first = turns.first()
        assert first is not None
        assert counters[first] == min(counters[each] for each in ("acme", "globex", "initech"))
        assert turns.level() == counters[first]


def test_service_of_another_router_counts_as_if_it_were_ours() -> None:
    """acme asks two routers, globex the first alone, initech the second alone."""
    routers = Turns(), Turns()
    had: Counter[str] = Counter()
    for router, tenants in zip(routers, (("acme", "globex"), ("acme", "initech")), strict=True):
        for tenant in tenants:
            router.enter(tenant)

    for _ in range(300):
        for router, other in (routers, routers[::-1]):
            first = router.first()
            assert first is not None
            router.charge(first, 10.0, weight=1)
            other.charge_elsewhere(first, 10.0, weight=1)
            had[first] += 10

    assert had["acme"] <= min(had["globex"], had["initech"]) + 20.0


def test_what_was_served_since_a_mark_is_told_in_totals() -> None:
    turns = Turns()
    mark, nothing = turns.standings_since(0)
    assert nothing == {}

    turns.charge("acme", 10.0, weight=2)
    turns.charge("globex", 5.0, weight=1)
    turns.charge_elsewhere("initech", 7.0, weight=1)
    later, changed = turns.standings_since(mark)
    assert changed == {"acme": Standing(10.0, waits=False), "globex": Standing(5.0, waits=False)}

    turns.charge("acme", -4.0, weight=2)
    turns.enter("globex")
    assert turns.standings_since(later)[1] == {
        "globex": Standing(5.0, waits=True),
        "acme": Standing(6.0, waits=False),
    }
    turns.leave("globex")
    assert turns.standings_since(mark)[1] == {
        "globex": Standing(5.0, waits=False),
        "acme": Standing(6.0, waits=False),
    }


def test_outputs_are_predicted_from_those_before_and_never_above_what_is_asked_for() -> None:
    turns = Turns()
    assert turns.predicted_output("acme", 512) == 512

    for _ in range(20):
        turns.wrote("acme", 40)

    assert turns.predicted_output("acme", 512) == pytest.approx(40)
    assert turns.predicted_output("acme", 16) == 16


def test_a_prediction_follows_when_outputs_change() -> None:
    turns = Turns()
    turns.wrote("acme", 40)
    turns.wrote("acme", 400)
    assert 40 < turns.predicted_output("acme", 512) < 400

    for _ in range(40):
        turns.wrote("acme", 400)

    assert turns.predicted_output("acme", 512) == pytest.approx(400, rel=0.01)
