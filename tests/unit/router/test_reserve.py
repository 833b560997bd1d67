from typing import Any

from services.router.core.bands import Band
from services.router.core.fairness import Turns
from services.router.core.reserve import AHEAD, Reserve
from tests.unit.router.test_queue import waiting

SLOTS = 8
COST = 10.0


def asks(reserve: Reserve, turns: Turns | None = None, **request: Any) -> bool:
    return reserve.is_for(waiting(**request), turns or Turns(), COST, slots=SLOTS)


def with_running(**tenants: int) -> Reserve:
    reserve = Reserve()
    for tenant, number in tenants.items():
        for _ in range(number):
            reserve.began(waiting(tenant=tenant))
    return reserve


def test_it_is_for_who_has_less_than_its_share_under_way() -> None:
    reserve = with_running(acme=5, globex=3)

    assert not asks(reserve, tenant="acme")
    assert asks(reserve, tenant="globex")
    assert asks(reserve, tenant="initech")


def test_half_is_the_share_of_who_is_alone() -> None:
    assert asks(with_running(acme=3), tenant="acme")
    assert not asks(with_running(acme=4), tenant="acme")


def test_the_share_grows_with_the_weight() -> None:
    reserve = with_running(acme=2)
    reserve.began(waiting(tenant="globex", weight=3))

    assert not asks(reserve, tenant="acme")
    assert asks(reserve, tenant="acme", weight=2)


def test_batches_have_none_of_it_and_count_for_nobody() -> None:
    reserve = Reserve()
    for _ in range(SLOTS):
        reserve.began(waiting(tenant="acme", band=Band.BATCH))

    assert not asks(reserve, tenant="globex", band=Band.BATCH)
    assert asks(reserve, tenant="acme")


def test_what_has_ended_counts_no_more() -> None:
    reserve = with_running(acme=4)

    reserve.ended(waiting(tenant="acme"))

    assert asks(reserve, tenant="acme")


def test_who_is_far_ahead_waits_for_its_turn() -> None:
    turns, reserve = Turns(), with_running(initech=4)
    turns.enter("initech")
    turns.enter("acme")
    turns.charge("acme", AHEAD * COST * SLOTS / 2, weight=1)
    assert asks(reserve, turns, tenant="acme")

    turns.charge("acme", 1.0, weight=1)

    assert not asks(reserve, turns, tenant="acme")


def test_who_found_it_empty_goes_in_the_order_they_came() -> None:
    reserve = Reserve()
    reserve.found_empty(waiting("r1"))
    reserve.found_empty(waiting("r2"))
    assert reserve.first() == waiting("r1")

    reserve.left("r1")

    assert reserve.first() == waiting("r2")
