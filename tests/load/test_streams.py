"""512 streams at once: none fails, and when they are over nothing of them is left."""

from collections.abc import Iterator

import pytest

from benchmarks.cases import engine
from benchmarks.load import Order
from benchmarks.mesh import Mesh, running
from benchmarks.sending import send
from benchmarks.watching import held_in_the_end, sample
from evenflow.home import service_name

STREAMS = 512
TOKENS = 32
SETTLED_WITHIN_S = 10.0


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with running(engine(0.1)) as made:
        yield made


def order(mesh: Mesh, *, rounds: int, seed: int) -> Order:
    return Order(
        addresses=[mesh.address],
        certificate_folder=str(mesh.tenant),
        server=service_name("gateway"),
        at_once=STREAMS,
        calls=rounds * STREAMS,
        tokens=TOKENS,
        seed=seed,
    )


def test_no_stream_of_512_at_once_fails(mesh: Mesh) -> None:
    outcome = send(order(mesh, rounds=2, seed=1))

    assert outcome.failed == 0
    assert outcome.good == 2 * STREAMS
    assert outcome.tokens == 2 * STREAMS * TOKENS


def test_slots_and_kv_blocks_are_free_when_512_streams_are_over(mesh: Mesh) -> None:
    send(order(mesh, rounds=1, seed=2))

    left = held_in_the_end(mesh, within_s=SETTLED_WITHIN_S)

    assert left.nothing, left


def test_512_streams_more_take_no_more_memory_and_no_more_descriptors(mesh: Mesh) -> None:
    processes = mesh.processes()
    send(order(mesh, rounds=1, seed=3))  # buffers have the size that they need
    warm = {role: sample(members) for role, members in processes.items()}

    send(order(mesh, rounds=2, seed=4))

    for role, before in warm.items():
        after = sample(processes[role])
        assert after.descriptors <= before.descriptors + 4, role
        assert after.rss_mb <= before.rss_mb * 1.1 + 10, role
