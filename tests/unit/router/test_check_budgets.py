"""Budgets at Check: paid out of what is held, waited for once, refused with a reason."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from services.router.core.budgets import Budget, Price, Prices, Unit, Window
from services.router.core.demands import WorkloadClass
from services.router.core.first_tokens import FEWEST
from services.router.core.hedging import Hedging, NotHedged
from services.router.core.purse import Granted
from services.router.core.requests import Decision
from services.router.core.rungs import SmallerOutput, Trigger
from services.router.core.tenants import ClassRules, Tenant, Tenants
from services.router.inbound.access_log import write_line
from services.router.inbound.answers import Answer
from services.router.inbound.budgeting import LONGEST_S, Budgeting
from services.router.inbound.check import Check
from services.router.inbound.line import Held
from tests import virtual_time
from tests.unit.router import test_check_held as line
from tests.unit.router.test_check import headers, reason
from tests.unit.router.values import LIMITS, check_request, ended, generate, mesh, tenant

NOON = 1_764_158_400.0  # of a day in November
TOTAL = Budget("acme/all", Unit.TOKENS, Window.TOTAL)
ACCOUNT = ("acme/all", 0)
RESERVED = 4 + 2 + 64 + 512  # the prompt as estimated, half of it and 64 more, the usual output


@dataclass
class Caller:
    held: Held
    answers: list[Answer] = field(default_factory=list)

    @property
    def answer(self) -> Answer:
        (only,) = self.answers
        return only


class Router:
    def __init__(self, *budgets: Budget, prices: Prices | None = None) -> None:
        self.budgeting = Budgeting("r0", lambda: NOON)
        self.mesh = replace(mesh(), budgeting=self.budgeting, hedging=Hedging(0.05))
        self.says(tenant(budgets=budgets), prices)
        self._check = Check(self.mesh, LIMITS, grace_s=5.0, clock=asyncio.get_running_loop().time)

    def says(self, known: Tenant, prices: Prices | None = None) -> None:
        tenants = Tenants("v2", [known], prices=prices or Prices({}))
        self.mesh.policy.replaced(tenants, asyncio.get_running_loop().time())

    def holds(self, units: int, account: tuple[str, int] = ACCOUNT) -> None:
        self.budgeting.reached()
        self.grants(units, account)

    def grants(self, units: int, account: tuple[str, int] = ACCOUNT) -> None:
        now_s = asyncio.get_running_loop().time()
        self.budgeting.granted([Granted(account, units)], now_s)

    def ask(self, request_id: str = "r1", **said: Any) -> Answer:
        answer = self._check(check_request(x_request_id=request_id, **said))
        assert isinstance(answer, Answer)
        return answer

    def waits(self, request_id: str = "r1") -> Caller:
        held = self._check(check_request(x_request_id=request_id))
        assert isinstance(held, Held)
        caller = Caller(held)
        held.reply = caller.answers.append
        return caller

    def there(self) -> int:
        return self.budgeting.purse.there(ACCOUNT)

    def decision(self, request_id: str = "r1") -> Decision:
        decision = self.mesh.requests.find(request_id).decision
        assert decision is not None
        return decision


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def within() -> None:
        await scenario()

    virtual_time.run(within())


def test_the_runtime_is_told_what_is_reserved_and_envoy_how_often_it_may_try() -> None:
    async def scenario() -> None:
        router = Router(TOTAL)
        router.holds(2 * RESERVED)

        said = headers(router.ask())

        assert said["x-evenflow-reservation"] == "r0.1/2"
        assert said["x-evenflow-charges"] == f"acme/all@0={RESERVED}:1:1:1:1"
        assert said["x-envoy-max-retries"] == "1"
        assert router.there() == 0

    run(scenario)


def test_where_one_attempt_alone_can_be_paid_envoy_tries_once() -> None:
    async def scenario() -> None:
        router = Router(TOTAL)
        router.holds(2 * RESERVED - 1)

        said = headers(router.ask())

        assert said["x-evenflow-reservation"] == "r0.1/1"
        assert said["x-envoy-max-retries"] == "0"
        assert router.decision().plan is None

    run(scenario)


@pytest.mark.parametrize(("held", "plan"), [(2 * RESERVED, True), (2 * RESERVED - 1, False)])
def test_a_hedge_is_promised_where_two_arms_can_be_paid(held: int, *, plan: bool) -> None:
    async def scenario() -> None:
        router = Router(TOTAL)
        for _ in range(int(FEWEST)):
            router.mesh.hedging.first_tokens.learn("small", 10, 0.1, 0.0)
        router.holds(held)
        said = headers(router.ask())

        assert (router.decision().plan is not None) is plan
        assert ("x-envoy-hedge-on-per-try-timeout" in said) is plan
        if not plan:
            assert router.decision().hedge is NotHedged.TENANT_BUDGET

    run(scenario)


def test_a_tenant_without_budgets_is_told_nothing_of_them() -> None:
    async def scenario() -> None:
        said = headers(Router().ask())

        assert not {"x-evenflow-reservation", "x-evenflow-charges", "x-envoy-max-retries"} & {*said}

    run(scenario)


def test_the_first_request_waits_for_policys_answer() -> None:
    async def scenario() -> None:
        router = Router(TOTAL)
        router.budgeting.reached()
        caller = router.waits()
        (want,) = router.budgeting.purse.batch(0.0).wants
        await asyncio.sleep(0.02)
        router.grants(want.units)

        assert want.units == 2 * RESERVED
        assert headers(caller.answer)["x-evenflow-reservation"] == "r0.1/2"
        assert router.decision().queue_wait_s == 0.02

    run(scenario)


def test_a_spent_budget_says_so_and_until_when() -> None:
    async def scenario() -> None:
        day = replace(TOTAL, window=Window.DAY)
        router = Router(day)
        router.budgeting.reached()
        caller = router.waits()
        router.grants(0, ("acme/all", int(NOON - 12 * 3600)))
        again = router.ask("r2")

        for each in (caller.answer, again):
            assert reason(each) == "BUDGET_EXHAUSTED"
            assert headers(each)["retry-after"] == str(12 * 3600)
        assert router.decision("r2").refusal is not None

    run(scenario)


def test_a_total_that_is_spent_names_no_time() -> None:
    async def scenario() -> None:
        router = Router(TOTAL)
        router.budgeting.reached()
        caller = router.waits()
        router.grants(0)

        assert "retry-after" not in headers(caller.answer)
        assert headers(caller.answer)["x-should-retry"] == "false"

    run(scenario)


def test_without_the_ledger_what_is_held_is_spent_and_then_refused() -> None:
    async def scenario() -> None:
        router = Router(TOTAL)
        router.holds(RESERVED)
        router.budgeting.lost()

        first, second = router.ask("r1"), router.ask("r2")

        assert headers(first)["x-evenflow-reservation"] == "r0.1/1"
        assert reason(second) == "LEDGER_UNREACHABLE"
        assert headers(second)["retry-after"] == "1"

    run(scenario)


def test_who_waits_is_refused_when_the_ledger_is_lost_or_says_nothing() -> None:
    async def scenario() -> None:
        router = Router(TOTAL)
        router.budgeting.reached()
        lost = router.waits("r1")
        router.budgeting.lost()
        router.budgeting.reached()
        silent = router.waits("r2")
        await asyncio.sleep(LONGEST_S + 0.1)

        assert [reason(each.answer) for each in (lost, silent)] == 2 * ["LEDGER_UNREACHABLE"]

    run(scenario)


def test_a_router_that_has_just_begun_lets_requests_wait_for_the_ledger() -> None:
    async def scenario() -> None:
        router = Router(TOTAL)
        early = router.waits("r1")
        router.budgeting.lost()  # the first try to reach it has failed
        router.holds(2 * RESERVED)
        late = router.waits("r2")
        await asyncio.sleep(LONGEST_S + 0.1)

        assert headers(early.answer)["x-evenflow-reservation"] == "r0.1/2"
        assert reason(late.answer) == "LEDGER_UNREACHABLE"

    run(scenario)


def test_the_id_of_one_that_waits_is_taken() -> None:
    async def scenario() -> None:
        router = Router(TOTAL)
        router.budgeting.reached()
        first, second = router.waits("r1"), router.waits("r1")
        router.grants(4 * RESERVED)

        ids = [headers(each.answer)["x-evenflow-request-id"] for each in (first, second)]
        assert ids[0] == "r1"
        assert ids[1] != "r1"

    run(scenario)


def test_who_leaves_while_it_waits_takes_nothing() -> None:
    async def scenario() -> None:
        router = Router(TOTAL)
        router.budgeting.reached()
        caller = router.waits()
        caller.held.left()
        router.grants(2 * RESERVED)

        assert caller.answers == []
        assert router.there() == 2 * RESERVED
        assert router.mesh.requests.running() == 0

    run(scenario)


def test_attempts_that_were_never_sent_are_there_again_when_it_ends() -> None:
    async def scenario() -> None:
        router = Router(TOTAL)
        router.holds(2 * RESERVED)
        router.ask()
        router.mesh.requests.end(ended("r1", attempts=1))

        assert router.there() == RESERVED
        router.budgeting.purse.settled(1, 1, {ACCOUNT: 30})
        assert router.there() == 2 * RESERVED - 30

    run(scenario)


def test_one_that_is_over_before_it_was_judged_costs_nothing() -> None:
    async def scenario() -> None:
        router = Router(TOTAL)
        router.holds(2 * RESERVED)
        router.mesh.requests.end(ended("r1", began_unix_s=1000.0, attempts=0))
        router.ask()

        assert router.there() == 2 * RESERVED

    run(scenario)


def test_a_slot_that_nobody_freed_keeps_its_attempts_until_policy_knows() -> None:
    async def scenario() -> None:
        router = Router(TOTAL)
        router.holds(2 * RESERVED)
        router.ask()
        router.mesh.requests.expire(1e6)
        waited = router.there()
        router.budgeting.purse.settled_until(NOON + 10)

        assert (waited, router.there()) == (0, 2 * RESERVED)

    run(scenario)


def test_money_is_counted_by_the_price_of_the_model() -> None:
    async def scenario() -> None:
        spend = Budget("acme/all", Unit.MONEY, Window.TOTAL)
        router = Router(spend, prices=Prices({"small": Price(150, 75, 600)}))
        most = (RESERVED - 512) * 150 + 512 * 600
        router.holds(most)

        assert headers(router.ask())["x-evenflow-charges"] == f"acme/all@0={most}:150:75:600:1"

    run(scenario)


def test_a_model_without_a_price_is_refused_by_name() -> None:
    async def scenario() -> None:
        router = Router(Budget("acme/all", Unit.MONEY, Window.TOTAL))
        router.holds(10**9)

        refused = router.ask()

        assert reason(refused) == "MODEL_NOT_PRICED"
        assert headers(refused)["x-evenflow-field"] == "model"

    run(scenario)


def test_a_budget_that_is_low_degrades_by_the_ladder() -> None:
    async def scenario() -> None:
        router = Router(replace(TOTAL, hard=False))
        ladder = (SmallerOutput(Trigger.BUDGET_LOW, 100),)
        known = tenant(budgets=(replace(TOTAL, hard=False),))
        rules = {WorkloadClass.INTERACTIVE: ClassRules(ladder)}
        router.mesh.policy.replaced(Tenants("v3", [known], rules), 0.0)

        before = headers(router.ask("r1"))
        router.budgeting.granted([Granted(ACCOUNT, 5, low=True)], 0.0)
        after = headers(router.ask("r2"))

        assert "x-evenflow-degradations" not in before
        assert after["x-evenflow-degradations"] == "smaller_output=budget_low"
        assert after["x-evenflow-charges"] == f"acme/all@0={RESERVED - 412}:1:1:1:0"

    run(scenario)


def test_counting_tokens_costs_nothing() -> None:
    async def scenario() -> None:
        router = Router(TOTAL)
        said = headers(
            router.ask(path="/evenflow.inference.v1.InferenceService/CountTokens", body=generate())
        )

        assert "x-evenflow-reservation" not in said

    run(scenario)


def in_line(scenario: Callable[[line.Router, Budgeting], Awaitable[None]]) -> None:
    """Both endpoints are full, and what is asked from then on is paid for."""
    budgeting = Budgeting("r0", lambda: NOON)

    async def within(router: line.Router) -> None:
        tenants = Tenants("v2", [tenant(budgets=(TOTAL,))])
        router.mesh.policy.replaced(tenants, asyncio.get_running_loop().time())
        budgeting.reached()
        await scenario(router, budgeting)

    line.run(within, replace(mesh(), budgeting=budgeting))


def test_whose_turn_has_come_waits_for_policy_too() -> None:
    async def scenario(router: line.Router, budgeting: Budgeting) -> None:
        caller = router.held("r1")
        router.end("full0")
        await asyncio.sleep(0)
        assert caller.answers == []
        assert len(router.mesh.line.flow) == 0

        budgeting.granted([Granted(ACCOUNT, 2 * RESERVED)], asyncio.get_running_loop().time())

        assert headers(caller.answer)["x-evenflow-reservation"] == "r0.1/2"

    in_line(scenario)


def test_who_leaves_after_its_turn_takes_nothing() -> None:
    async def scenario(router: line.Router, budgeting: Budgeting) -> None:
        caller = router.held("r1")
        router.end("full0")
        await asyncio.sleep(0)
        running = router.mesh.requests.running()

        caller.held.left()
        budgeting.granted([Granted(ACCOUNT, 2 * RESERVED)], asyncio.get_running_loop().time())

        assert caller.answers == []
        assert router.mesh.requests.running() == running
        assert budgeting.purse.there(ACCOUNT) == 2 * RESERVED

    in_line(scenario)


def test_a_request_can_be_found_in_the_ledger_by_its_line() -> None:
    async def scenario() -> None:
        router = Router(TOTAL)
        router.holds(4 * RESERVED)
        router.ask("r1")
        router.ask("r2")
        with capture_logs() as lines:
            request = router.mesh.requests.end(ended("r2"))
            assert request is not None
            assert request.ended is not None
            write_line(request, request.ended)

        assert lines[0]["reservation"] == 2

    run(scenario)
