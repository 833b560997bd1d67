from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from services.router.core.bands import Band
from services.router.core.queue import ModelQueue, Waiting
from tests.unit.router.values import SMALL

NOW_S = 10.0


def waiting(request_id: str = "r1", **changes: Any) -> Waiting:
    values: dict[str, Any] = {
        "lane": SMALL,
        "tenant": "acme",
        "weight": 1,
        "band": Band.INTERACTIVE,
        "prompt_tokens": 10,
        "output_tokens": 100,
        "since_s": NOW_S,
        "deadline_s": NOW_S + 60.0,
        "until_s": NOW_S + 30.0,
    }
    return Waiting(request_id, **{**values, **changes})


def served(queue: ModelQueue) -> Waiting:
    first = queue.first()
    assert first is not None
    queue.served(first, queue.bands[first.band].cost(first))
    queue.bands[first.band].remove(first)
    return first


def added(queue: ModelQueue, *requests: Waiting) -> None:
    for each in requests:
        queue.bands[each.band].add(each)


def empty_queue() -> ModelQueue:
    return ModelQueue(batch_share=0.1)


@settings(deadline=None)
@given(st.lists(st.sampled_from([11.0, 12.0, 13.0, 14.0]), max_size=30))
def test_within_a_tenant_the_earliest_deadline_goes_first_and_of_equals_who_came_first(
    deadlines: list[float],
) -> None:
    queue = empty_queue()
    requests = [waiting(f"r{at}", deadline_s=each) for at, each in enumerate(deadlines)]
    added(queue, *requests)

    order = [served(queue) for _ in requests]

    assert order == sorted(requests, key=lambda each: each.deadline_s)
    assert queue.first() is None


def test_one_tenants_deadlines_are_nothing_to_another() -> None:
    queue = empty_queue()
    added(queue, waiting("late", deadline_s=99.0))
    added(queue, *(waiting(f"soon{at}", tenant="globex", deadline_s=11.0) for at in range(9)))

    assert "late" in [served(queue).request_id for _ in range(2)]


def test_of_two_tenants_that_wait_each_is_served_in_turn_however_many_one_sends() -> None:
    queue = empty_queue()
    added(queue, *(waiting(f"a{at}") for at in range(50)))
    added(queue, *(waiting(f"g{at}", tenant="globex") for at in range(5)))

    tenants = [served(queue).tenant for _ in range(10)]

    assert (tenants.count("acme"), tenants.count("globex")) == (5, 5)


def test_a_tenant_of_thrice_the_weight_gets_thrice_as_much() -> None:
    queue = empty_queue()
    added(queue, *(waiting(f"a{at}", weight=3) for at in range(60)))
    added(queue, *(waiting(f"g{at}", tenant="globex") for at in range(60)))

    tenants = [served(queue).tenant for _ in range(40)]

    assert tenants.count("acme") == 30


def test_batches_come_after_the_others_but_never_stand_still() -> None:
    queue = empty_queue()
    added(queue, *(waiting(f"b{at}", band=Band.BATCH, tenant="globex") for at in range(50)))
    added(queue, *(waiting(f"i{at}") for at in range(200)))

    bands = [served(queue).band for _ in range(100)]

    assert bands[0] is Band.INTERACTIVE
    assert bands.count(Band.BATCH) == 10


def test_a_batch_that_waits_elsewhere_is_owed_its_share() -> None:
    queue = empty_queue()
    queue.bands[Band.BATCH].turns.enter_elsewhere("globex")
    for number in range(20):
        added(queue, waiting(f"i{number}"))
        served(queue)
    added(queue, waiting("i"), waiting("b", band=Band.BATCH))

    assert served(queue).request_id == "b"


def test_a_batch_that_comes_when_others_were_served_is_owed_nothing() -> None:
    queue = empty_queue()
    for number in range(20):
        added(queue, waiting(f"i{number}"))
        served(queue)
    added(queue, waiting("b", band=Band.BATCH), waiting("i"))

    assert served(queue).request_id == "i"


def test_alone_a_batch_goes_at_once() -> None:
    queue = empty_queue()
    added(queue, waiting(band=Band.BATCH))

    assert served(queue).band is Band.BATCH


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "serve", "remove"]),
            st.sampled_from(["acme", "globex", "initech"]),
            st.sampled_from(list(Band)),
        ),
        max_size=80,
    )
)
def test_what_waits_is_what_came_and_neither_went_nor_left(
    steps: list[tuple[str, str, Band]],
) -> None:
    queue, held = empty_queue(), dict[str, Waiting]()
    for at, (what, tenant, band) in enumerate(steps):
        if what == "add":
            held[f"r{at}"] = waiting(f"r{at}", tenant=tenant, band=band)
            added(queue, held[f"r{at}"])
        elif what == "serve" and held:
            assert held.pop(served(queue).request_id)
        elif what == "remove" and held:
            gone = held.pop(sorted(held)[at % len(held)])
            queue.bands[gone.band].remove(gone)

        assert len(queue) == len(held)
        assert (queue.first() is None) == (not held)
        for of in ("acme", "globex", "initech"):
            assert queue.of(of) == sum(each.tenant == of for each in held.values())
        weight = {band: {w.tenant for w in held.values() if w.band is band} for band in Band}
        assert all(queue.bands[band].weight == len(weight[band]) for band in Band)


def test_ahead_of_a_request_is_its_own_tenants_earlier_and_a_fair_part_of_the_others() -> None:
    queue = empty_queue()
    band = queue.bands[Band.INTERACTIVE]
    added(queue, *(waiting(f"a{at}") for at in range(100)))
    each = band.cost(waiting())

    assert band.service_ahead(waiting("last")) == 100 * each
    assert band.service_ahead(waiting("urgent", deadline_s=11.0)) == 0.0
    assert band.service_ahead(waiting("other", tenant="globex")) == 0.0

    added(queue, *(waiting(f"g{at}", tenant="globex") for at in range(10)))
    assert band.service_ahead(waiting("next", tenant="globex")) == 20 * each
