"""What flow control makes of whole loads, in virtual time: two routers, floods, partitions."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.router.core.bands import Band
from services.router.core.fairness import OUTPUT_WEIGHT
from services.router.core.queue_limits import QueueLimits
from tests.unit.router.virtual_mesh import Engine, Load, VirtualMesh

SETTLED_S = 8.0
SLOTS = 128
# VTC's: two tenants that both wait differ by twice what a full batch may write, 96 tokens each.
BOUND = 2 * OUTPUT_WEIGHT * SLOTS * 96
QUIET = Load(tenant="quiet", per_s=5, prompt_tokens=200, least_tokens=16, most_tokens=32)
# A flood that waits for as long as it takes, so that nothing of it dies half done.
PATIENT = QueueLimits(of_a_tenant=1000, longest_s=dict.fromkeys(Band, 1000.0))
FLOOD = Load(tenant="flood", per_s=100, timeout_s=30)


def most_apart(mesh: VirtualMesh, one: str, other: str, *, from_s: float = SETTLED_S) -> float:
    """The largest difference of their service within any part of the time since then."""
    ahead = [each.get(one, 0.0) - each.get(other, 0.0) for each in mesh.samples[int(from_s * 10) :]]
    return max(ahead) - min(ahead)


@settings(max_examples=4, deadline=None)
@given(
    routers=st.sampled_from([((0,), (0,)), ((0, 1), (1,)), ((0,), (1,)), ((0, 1), (0, 1))]),
    prompts=st.tuples(st.sampled_from([16, 200]), st.sampled_from([16, 200])),
    later_s=st.sampled_from([0.0, 5.0]),
    seed=st.integers(0, 100),
)
def test_two_tenants_that_both_wait_get_the_same_whichever_routers_they_use(
    routers: tuple[tuple[int, ...], tuple[int, ...]],
    prompts: tuple[int, int],
    later_s: float,
    seed: int,
) -> None:
    loads = (
        Load(tenant="acme", routers=routers[0], at_once=300, prompt_tokens=prompts[0]),
        Load(
            tenant="globex",
            routers=routers[1],
            at_once=300,
            prompt_tokens=prompts[1],
            from_s=later_s,
        ),
    )

    mesh = VirtualMesh(*loads, routers=2, seed=seed).run(25.0)

    assert most_apart(mesh, "acme", "globex", from_s=later_s + SETTLED_S) <= BOUND


def test_who_uses_two_routers_gets_no_more_than_who_uses_one() -> None:
    both = Load(tenant="acme", routers=(0, 1), at_once=200)
    one = Load(tenant="globex", routers=(1,), at_once=200)
    other = Load(tenant="initech", routers=(1,), at_once=200)

    mesh = VirtualMesh(both, one, other, routers=2).run(40.0)

    service = [mesh.served(each, 15.0, 40.0) for each in ("acme", "globex", "initech")]
    assert max(service) < 1.1 * min(service)


def test_without_the_exchange_it_would_get_more() -> None:
    both = Load(tenant="acme", routers=(0, 1), at_once=200)
    one = Load(tenant="globex", routers=(1,), at_once=200)
    mesh = VirtualMesh(both, one, routers=2)
    mesh.cut()

    mesh.run(25.0)

    acme, globex = (mesh.served(each, 10.0, 25.0) for each in ("acme", "globex"))
    assert acme > 1.5 * globex


def test_after_a_partition_it_is_fair_again_and_nobody_pays_for_it() -> None:
    both = Load(tenant="acme", routers=(0, 1), at_once=200)
    one = Load(tenant="globex", routers=(1,), at_once=200)
    mesh = VirtualMesh(both, one, routers=2)
    mesh.at(5.0, mesh.cut)
    mesh.at(25.0, mesh.connect)

    mesh.run(65.0)

    for from_s in (35.0, 50.0):
        acme, globex = (mesh.served(each, from_s, from_s + 15.0) for each in ("acme", "globex"))
        assert 0.85 < acme / globex < 1.15


def test_the_endpoints_stay_busy_though_routers_yield() -> None:
    loads = (
        Load(tenant="acme", routers=(0,), at_once=200),
        Load(tenant="globex", routers=(1,), at_once=200),
    )
    two, fifo = (
        VirtualMesh(*loads, routers=2).run(30.0),
        VirtualMesh(*loads, routers=2, fifo=True).run(30.0),
    )

    assert total(two) > 0.9 * total(fifo)


@pytest.mark.parametrize("band", list(Band))
@pytest.mark.parametrize("routers", [1, 2])
def test_a_flood_costs_a_quiet_tenant_little_time_and_the_mesh_little_work(
    band: Band, routers: int
) -> None:
    use = tuple(range(routers))
    flood = Load(tenant="flood", at_once=640 // routers, band=band, routers=use)
    alone = VirtualMesh(QUIET).run(40.0)

    flooded = VirtualMesh(QUIET, flood, routers=routers, limits=PATIENT).run(40.0)
    fifo = VirtualMesh(QUIET, flood, routers=routers, fifo=True).run(40.0)

    assert ttft_s(flooded, 0.5) < 1.3 * ttft_s(alone, 0.5)
    assert ttft_s(flooded, 0.95) < 1.3 * ttft_s(alone, 0.95)
    assert total(flooded) > 0.9 * total(fifo)


def test_without_a_reserve_a_quiet_tenant_would_wait_for_slots() -> None:
    engines = [Engine("a:1", max_running=8), Engine("b:1", max_running=8)]
    flooded = VirtualMesh(QUIET, FLOOD, engines=engines).run(20.0)

    assert ttft_s(flooded, 0.5) > 0.5


def ttft_s(mesh: VirtualMesh, share: float) -> float:
    return mesh.ttft_s("quiet", share, from_s=SETTLED_S)


def total(mesh: VirtualMesh) -> float:
    return sum(mesh.served(each, SETTLED_S, mesh.now_s) for each in mesh.given)
