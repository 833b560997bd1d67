from hypothesis import given
from hypothesis import strategies as st

from services.router.core.order import Order

TENANTS = ("acme", "globex", "initech")
STEPS = st.lists(
    st.tuples(st.sampled_from(("enter", "leave", "raise", "lower")), st.sampled_from(TENANTS))
)


@given(STEPS)
def test_the_first_has_the_least_counter_of_those_who_wait(steps: list[tuple[str, str]]) -> None:
    counters = dict.fromkeys(TENANTS, 0.0)
    order = Order(lambda tenant: counters[tenant])

    for what, tenant in steps:
        if what == "enter" and tenant not in order:
            order.enter(tenant)
        elif what == "leave" and tenant in order:
            order.leave(tenant)
        elif what == "raise":
            counters[tenant] += 1.0
        elif what == "lower":
            counters[tenant] -= 1.0
            if tenant in order:
                order.enter(tenant)

        first = order.first()
        waiting = [each for each in TENANTS if each in order]
        assert (first is None) == (not waiting)
        assert first is None or counters[first] == min(counters[each] for each in waiting)


def test_of_equal_ones_the_first_to_come_is_first() -> None:
    order = Order(lambda _: 1.0)
    for tenant in TENANTS:
        order.enter(tenant)

    assert order.first() == "acme"


def test_it_does_not_grow_with_what_came_and_went() -> None:
    order = Order(lambda _: 1.0)
    for _ in range(10_000):
        order.enter("acme")
        order.leave("acme")
    order.enter("globex")

    assert len(order._heap) < 100  # noqa: SLF001 - memory shows nowhere else
