"""A router never spends what it does not hold, and holds what the ledger says, whatever is late,
lost, or never begun."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
)

from services.router.core.budgets import A_TOKEN, Account, Charge
from services.router.core.purse import CLOCKS_DIFFER_S, DRY_S, Batch, Granted, Purse, Want
from services.router.core.spending import Lacking, Reservation, reserved

MONTH: Account = ("acme/month", 0)
DAY: Account = ("acme/day", 86_400)


def charge(units: int, account: Account = MONTH, *, hard: bool = True) -> Charge:
    return Charge(account, units, A_TOKEN, hard)


def purse(**there: int) -> Purse:
    made = Purse()
    for account, units in {MONTH: there.get("month", 0), DAY: there.get("day", 0)}.items():
        if units:
            made.granted(Granted(account, units), now_s=0.0)
    return made


def test_all_accounts_pay_or_none() -> None:
    here = purse(month=100, day=10)

    outcome = here.set_aside("r", [charge(50), charge(50, DAY)], attempts=1, now_s=0.0)

    assert outcome == DAY
    assert (here.there(MONTH), here.there(DAY), here.under_way()) == (100, 10, 0)


def test_what_an_attempt_did_not_use_is_there_again_when_it_is_settled() -> None:
    here = purse(month=100)
    number = here.set_aside("r", [charge(40)], attempts=2, now_s=0.0)
    assert isinstance(number, int)

    here.settled(number, 1, {MONTH: 15})
    here.ended("r", sent=1, unix_s=0.0)

    assert (here.there(MONTH), here.held(MONTH), here.under_way()) == (85, 85, 0)


def test_an_attempt_that_was_sent_is_waited_for_until_nobody_can_tell_of_it() -> None:
    here = purse(month=100)
    here.set_aside("r", [charge(40)], attempts=2, now_s=0.0)
    here.ended("r", sent=2, unix_s=50.0)

    here.settled_until(50.0 + CLOCKS_DIFFER_S - 0.1)
    waited = here.there(MONTH)
    here.settled_until(50.0 + CLOCKS_DIFFER_S)

    assert (waited, here.there(MONTH), here.under_way()) == (20, 100, 0)


def test_who_ended_in_an_unknown_way_may_have_used_every_attempt() -> None:
    here = purse(month=100)
    here.set_aside("r", [charge(40)], attempts=2, now_s=0.0)

    here.ended("r", sent=None, unix_s=50.0)

    assert here.there(MONTH) == 20


def test_a_settlement_that_comes_after_all_takes_what_it_used() -> None:
    here = purse(month=100)
    number = here.set_aside("r", [charge(40)], attempts=1, now_s=0.0)
    assert isinstance(number, int)
    here.ended("r", sent=0, unix_s=0.0)

    here.settled(number, 1, {MONTH: 30})

    assert here.held(MONTH) == 70


def test_a_soft_account_holds_nobody_up() -> None:
    here = purse(month=10)

    assert isinstance(here.set_aside("r", [charge(50, hard=False)], attempts=1, now_s=0.0), int)
    assert here.there(MONTH) == -40
    assert here.batch(0.0).wants[0].units >= 40


def test_two_attempts_are_paid_for_if_there_is_enough_else_one() -> None:
    here = purse(month=100)

    first = reserved(here, "a", [charge(40)], now_s=0.0)
    second = reserved(here, "b", [charge(20)], now_s=0.0)
    third = reserved(here, "c", [charge(20)], now_s=0.0)

    assert isinstance(first, Reservation)
    assert isinstance(second, Reservation)
    assert (first.attempts, second.attempts, third) == (2, 1, Lacking(MONTH))


def test_what_was_lacking_is_asked_for_until_it_is_there() -> None:
    here = purse(month=10)
    here.set_aside("r", [charge(50)], attempts=1, now_s=0.0)

    asked = here.batch(0.0).wants
    here.granted(Granted(MONTH, 25), now_s=0.0)
    asked_again = here.batch(0.0).wants
    here.granted(Granted(MONTH, 15), now_s=0.0)

    assert (asked, asked_again) == ((Want(MONTH, 40),), (Want(MONTH, 15),))
    assert not here.is_short(MONTH)


def test_a_dry_account_is_asked_for_again_after_a_while() -> None:
    here = purse(month=10)
    here.set_aside("r", [charge(50)], attempts=1, now_s=0.0)
    here.granted(Granted(MONTH, 0), now_s=0.0)
    here.set_aside("s", [charge(50)], attempts=1, now_s=0.0)

    at_once = here.batch(0.0).wants
    assert here.is_dry(MONTH, 0.0)
    here.set_aside("t", [charge(50)], attempts=1, now_s=DRY_S)

    assert (at_once, here.batch(DRY_S).wants) == ((), (Want(MONTH, 40),))
    assert not here.is_dry(MONTH, DRY_S)


def test_who_spends_fast_is_granted_ahead_of_need() -> None:
    here = purse(month=1000)
    for each in range(10):
        here.set_aside(str(each), [charge(100)], attempts=1, now_s=each / 10)

    (want,) = here.batch(1.0).wants

    assert 150 < want.units <= 250


@pytest.mark.parametrize(("there", "asked"), [(120, False), (60, True)])
def test_more_is_asked_for_when_half_of_that_is_left(there: int, *, asked: bool) -> None:
    here = purse(month=1000 + there)
    for each in range(10):
        here.set_aside(str(each), [charge(100)], attempts=1, now_s=each / 10)

    assert bool(here.batch(1.0).wants) is asked


def test_what_lies_idle_goes_back() -> None:
    here = purse(month=1000)
    here.set_aside("r", [charge(10)], attempts=1, now_s=0.0)
    here.ended("r", sent=0, unix_s=0.0)

    here.sweep(10.0)
    batch = here.batch(10.0)

    assert batch == Batch(returns=(Want(MONTH, 1000),))
    assert here.there(MONTH) == 0


def test_where_others_look_for_it_it_goes_back_at_once() -> None:
    here = purse()
    here.granted(Granted(MONTH, 1000, scarce=True), now_s=0.0)

    for_whom_it_was_granted = here.batch(0.5).returns
    here.sweep(1.0)

    assert (for_whom_it_was_granted, here.batch(1.0).returns) == ((), (Want(MONTH, 1000),))


def test_nothing_is_remembered_of_accounts_that_nobody_uses() -> None:
    here = purse(month=100)
    here.sweep(60.0)
    here.batch(60.0)

    here.sweep(120.0)

    assert list(here.accounts()) == []


def test_a_router_that_ends_gives_back_what_is_not_set_aside() -> None:
    here = purse(month=100, day=5)
    here.set_aside("r", [charge(30)], attempts=1, now_s=0.0)

    returned = here.all_idle().returns

    assert sorted((each.account, each.units) for each in returned) == [(DAY, 5), (MONTH, 70)]


LIMIT = 1000


class Together(RuleBasedStateMachine):
    """A purse and a ledger that keeps the simplest books; what lies between them may be late."""

    running: Bundle[str] = Bundle("running")
    attempts: Bundle[tuple[int, int, int]] = Bundle("attempts")  # number, attempt, at most

    def __init__(self) -> None:
        super().__init__()
        self.purse = Purse()
        self.spent = self.held = self.used = 0
        self.news: list[tuple[int, int, int]] = []  # settlements on their way to the purse
        self.under_way: dict[tuple[int, int], float] = {}  # when each began
        self.now_s = 0.0
        self.requests = 0

    @rule()
    def asks(self) -> None:
        batch = self.purse.batch(self.now_s)
        for each in batch.returns:
            self.held -= each.units
        for each in batch.wants:
            units = min(each.units, LIMIT - self.spent - self.held)
            self.held += units
            self.purse.granted(Granted(MONTH, units, scarce=units < each.units), self.now_s)

    @rule(target=running, most=st.integers(1, 200))
    def lets_go(self, most: int) -> MultipleResults[str]:
        self.requests += 1
        outcome = reserved(self.purse, str(self.requests), [charge(most)], now_s=self.now_s)
        if isinstance(outcome, Lacking):
            return multiple()
        self.under_way |= {
            (outcome.number, each): self.now_s for each in range(1, outcome.attempts + 1)
        }
        return multiple(f"{self.requests} {outcome.number} {outcome.attempts} {most}")

    @rule(target=attempts, request=consumes(running), sent=st.integers(0, 2), begun=st.booleans())
    def ends(
        self, request: str, sent: int, *, begun: bool
    ) -> MultipleResults[tuple[int, int, int]]:
        """Of what was sent, the first may never have begun."""
        name, number, paid, most = request.split()
        sent = min(sent, int(paid))
        self.purse.ended(name, sent=sent, unix_s=self.now_s)
        began = range(1 if begun else 2, sent + 1)
        for each in range(1, int(paid) + 1):
            if each not in began:
                del self.under_way[int(number), each]
        return multiple(*((int(number), each, int(most)) for each in began))

    @rule(attempt=consumes(attempts), share=st.floats(0, 1))
    def settles(self, attempt: tuple[int, int, int], share: float) -> None:
        number, which, most = attempt
        used = int(share * most)
        del self.under_way[number, which]
        self.used += used
        self.spent += used
        self.held -= used
        self.news.append((number, which, used))

    @rule()
    def hears(self) -> None:
        for number, which, used in self.news:
            self.purse.settled(number, which, {MONTH: used})
        self.news.clear()
        self.purse.settled_until(min([self.now_s, *self.under_way.values()]))

    @rule(seconds=st.sampled_from([0.1, 1.0, 10.0]))
    def waits(self, seconds: float) -> None:
        self.now_s += seconds
        self.purse.sweep(self.now_s)

    @invariant()
    def nothing_is_overspent(self) -> None:
        assert self.spent + self.held <= LIMIT
        assert self.purse.there(MONTH) >= 0

    @invariant()
    def both_know_the_same(self) -> None:
        untold = sum(used for _, _, used in self.news)
        assert self.purse.held(MONTH) == self.held + untold

    def teardown(self) -> None:
        """In the end, what was not used can be had by others."""
        self.hears()
        if not self.under_way:
            for _ in range(3):  # once for who was refused, and comes again
                self.now_s += 100.0
                self.hears()
                self.purse.sweep(self.now_s)
                self.asks()
            assert (self.spent, self.held) == (self.used, 0)


TestTogether = Together.TestCase
TestTogether.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("units", [0, 5])
def test_no_answer_is_not_a_grant_of_nothing(units: int) -> None:
    here = purse(month=units)

    assert not here.is_dry(MONTH, 0.0)
