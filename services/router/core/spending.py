"""What a request that is to be let go may spend: set aside for as many attempts as can be paid.

Two, if there is enough for two: a hedge, or one more try where a runtime was lost. Else one, and
the gateway neither hedges nor tries again.
"""

from collections.abc import Sequence

from services.router.core.budgets import Account, Charge
from services.router.core.purse import Purse
from services.router.core.value import value

MOST_ATTEMPTS = 2  # each costs as much as the request; the second is for a hedge or a retry


@value
class Reservation:
    number: int  # of this router's
    attempts: int  # that are paid for, in all
    charges: Sequence[Charge]


@value
class Lacking:
    """This account holds too little, even for one attempt."""

    account: Account


def reserved(
    purse: Purse, request_id: str, charges: Sequence[Charge], *, now_s: float
) -> Reservation | Lacking:
    outcome: int | Account = 0
    for attempts in range(MOST_ATTEMPTS, 0, -1):
        outcome = purse.set_aside(request_id, charges, attempts=attempts, now_s=now_s)
        if isinstance(outcome, int):
            return Reservation(outcome, attempts, charges)
    assert not isinstance(outcome, int), "it was set aside"
    return Lacking(outcome)
