"""Budgets at Check: what is let go is paid for out of what this router holds. It waits for policy's
word only where too little is held: the first request of a tenant, of a window, of a burst.

That wait is at most LONGEST_S, and over at once when policy says that nothing is left, or is gone.
"""

import asyncio
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from services.router.core.budgets import (
    Account,
    Charge,
    NotPriced,
    at_most,
    charged,
    window_end,
)
from services.router.core.endings import Ended
from services.router.core.purse import Granted, Purse
from services.router.core.requests import Decision
from services.router.core.spending import Lacking, Reservation, reserved
from services.router.core.tenants import Caller, Tenants
from services.router.core.verdicts import Admitted, Reason, Refused
from services.router.inbound.answers import Answer
from services.router.inbound.line import Held, Turn

LONGEST_S = 1.0
_COME_BACK_S = 1.0


@dataclass(frozen=True, slots=True)
class Spending:
    """Whose money, and for what."""

    caller: Caller
    tenants: Tenants  # as they are when it is decided
    admitted: Admitted


@dataclass(slots=True)
class _Waits:
    account: Account
    turn: Turn
    held: Held
    timer: asyncio.TimerHandle


class Budgeting:
    """`router` names this process in the ledger. `unix_s` is the wall's clock."""

    def __init__(self, router: str, unix_s: Callable[[], float]) -> None:
        self.router = router
        self.purse = Purse()
        self.stirred: Callable[[], None] = lambda: None  # the purse may want something
        self._unix_s = unix_s
        self._connected: bool | None = None  # to the ledger; None: not yet
        self._waiting: dict[str, _Waits] = {}

    def spend(
        self, request_id: str, spending: Spending, now_s: float
    ) -> Reservation | Lacking | Refused | None:
        """None: no budget counts it. Lacking: it may be had by waiting."""
        try:
            charges = self._charges(spending)
        except NotPriced as error:
            return _not_priced(spending.admitted.model, str(error))
        if not charges:
            return None
        outcome = reserved(self.purse, request_id, charges, now_s=now_s)
        if not isinstance(outcome, Lacking):
            return outcome
        self.stirred()
        if self._connected is not False and not self.purse.is_dry(outcome.account, now_s):
            return outcome
        return self.refuse(outcome, spending.caller, now_s)

    def is_low(self, caller: Caller) -> bool:
        """Of some budget that counts it, little is left."""
        accounts = caller.tenant.accounts(caller.workload, self._unix_s())
        return any(self.purse.is_low(each) for each in accounts)

    def refuse(self, lacking: Lacking, caller: Caller, now_s: float) -> Refused:
        """One that can't wait, or has."""
        (name, start_unix_s), purse = lacking.account, self.purse
        if not purse.is_dry(lacking.account, now_s):
            return _LEDGER_UNREACHABLE
        budget = next(each for each in caller.tenant.budgets if each.name == name)
        ends_unix_s = window_end(budget.window, start_unix_s)
        if ends_unix_s is None:
            return Refused(Reason.BUDGET_EXHAUSTED, f"the budget {name} is spent")
        until = datetime.fromtimestamp(ends_unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return Refused(
            Reason.BUDGET_EXHAUSTED,
            f"the budget {name} is spent until {until}",
            retry_after_s=max(_COME_BACK_S, ends_unix_s - self._unix_s()),
        )

    def hold(self, request_id: str, lacking: Lacking, turn: Turn) -> Held:
        """Its turn comes with policy's answer."""
        loop = asyncio.get_running_loop()

        def leave() -> None:
            if self._taken(request_id) is not None:
                turn.leave(loop.time())

        held = Held(leave)
        timer = loop.call_later(LONGEST_S, self._again, request_id)
        self._waiting[request_id] = _Waits(lacking.account, turn, held, timer)
        return held

    def holds(self, request_id: str) -> bool:
        """It waits."""
        return request_id in self._waiting

    def granted(self, grants: Sequence[Granted], now_s: float) -> None:
        """Policy has answered, or told of settlements."""
        for each in grants:
            self.purse.granted(each, now_s)
        for request_id, waits in list(self._waiting.items()):
            if self._is_decided(waits.account, now_s):
                self._again(request_id)

    def reached(self) -> None:
        self._connected = True

    def lost(self) -> None:
        """The ledger is out of reach: nobody waits for it, unless this router has just begun."""
        if self._connected is None:
            return
        self._connected = False
        for request_id in list(self._waiting):
            self._again(request_id)

    def forgotten(self) -> None:
        """The ledger took this router for gone, and has what it held: it begins as another."""
        self.router = uuid.uuid4().hex
        self.purse.forget()

    def given_up(self, request_id: str) -> None:
        """It was let go, and nobody heard of it."""
        self.purse.ended(request_id, sent=0, unix_s=self._unix_s())
        self.stirred()

    def freed(self, decision: Decision, ended: Ended | None) -> None:
        """Its slot is; None: nobody knows how it ended."""
        if ended is None:
            self.purse.ended(decision.request_id, sent=None, unix_s=self._unix_s())
        else:
            at_unix_s = ended.began_unix_s + ended.duration_s
            self.purse.ended(decision.request_id, sent=ended.attempts, unix_s=at_unix_s)

    def _charges(self, spending: Spending) -> tuple[Charge, ...]:
        caller, admitted = spending.caller, spending.admitted
        size = at_most(admitted.prompt_tokens, admitted.output_tokens, exact=admitted.exact)
        price = spending.tenants.prices.of(admitted.model)
        budgets, unix_s = caller.tenant.budgets, self._unix_s()
        return charged(budgets, caller.workload, size, price=price, unix_s=unix_s)

    def _is_decided(self, account: Account, now_s: float) -> bool:
        """There is something, and maybe enough; or there will be nothing."""
        return self.purse.is_dry(account, now_s) or not self.purse.is_short(account)

    def _taken(self, request_id: str) -> _Waits | None:
        waits = self._waiting.pop(request_id, None)
        if waits is not None:
            waits.timer.cancel()
        return waits

    def _again(self, request_id: str) -> None:
        waits = self._taken(request_id)
        if waits is not None:
            answer = waits.turn.go(asyncio.get_running_loop().time())
            assert isinstance(answer, Answer), "it waits once"
            waits.held.reply(answer)


def no_budgeting() -> Budgeting:
    """For meshes without a ledger: nobody has a budget there."""
    return Budgeting("", lambda: 0.0)


def _not_priced(model: str, budget: str) -> Refused:
    return Refused(
        Reason.MODEL_NOT_PRICED,
        f"the budget {budget} counts money, and the model {model[:100]!a} has no price",
        "model",
    )


_LEDGER_UNREACHABLE = Refused(
    Reason.LEDGER_UNREACHABLE,
    "nothing of the budget is held here, and the ledger does not answer",
    retry_after_s=_COME_BACK_S,
)
