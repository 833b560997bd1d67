"""The access log's stream breaks under load: no slot leaks, and none is freed twice.

Killed, Envoy takes with it what it has not said yet. Killed, the router hears of ends that it knows
no beginning of.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc
import pytest

from benchmarks.cases import engine
from benchmarks.load import Order
from benchmarks.mesh import Mesh, running
from benchmarks.sending import send, sending
from benchmarks.watching import held, held_in_the_end
from evenflow.home import service_name

STREAMS = 64
DEADLINE_S = 4
# The deadline, the router's 5 s of grace after it, its sweep once a second; a busy machine.
SETTLED_WITHIN_S = DEADLINE_S + 5.0 + 1.0 + 10.0
BACK_WITHIN_S = 30.0
LOOK_EVERY_S = 0.05


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with running(engine(0.02)) as made:
        yield made


def order(mesh: Mesh, *, at_once: int, calls: int, tokens: int) -> Order:
    return Order(
        addresses=[mesh.address],
        certificate_folder=str(mesh.tenant),
        server=service_name("gateway"),
        timeout_s=DEADLINE_S,
        at_once=at_once,
        calls=calls,
        tokens=tokens,
    )


@contextmanager
def loaded(mesh: Mesh) -> Iterator[None]:
    """Streams that hold their slots for as long as the body lasts. They may fail."""
    process = sending(order(mesh, at_once=STREAMS, calls=1_000_000, tokens=100))
    try:
        _until(lambda: held(mesh).requests >= STREAMS // 2)
        yield
    finally:
        process.kill()
        process.communicate()


def _until(reached: Callable[[], bool]) -> None:
    tick = threading.Event()
    for _ in range(round(BACK_WITHIN_S / LOOK_EVERY_S)):
        try:
            if reached():
                return
        except (grpc.RpcError, OSError, RuntimeError):
            pass  # what was killed is not back yet
        tick.wait(LOOK_EVERY_S)
    raise AssertionError("it did not come to pass")


def works(mesh: Mesh) -> bool:
    outcome = send(order(mesh, at_once=8, calls=32, tokens=4))
    return outcome.failed == 0


def test_slots_whose_ends_died_with_envoy_are_freed_by_their_deadlines(mesh: Mesh) -> None:
    with loaded(mesh):
        mesh.processes()["envoy"][0].kill()
        leaked = held(mesh).requests

    left = held_in_the_end(mesh, within_s=SETTLED_WITHIN_S)

    assert leaked > 0, "the load must have held slots when Envoy died"
    assert left.nothing, left
    _until(lambda: works(mesh))


def test_ends_of_requests_from_before_a_router_s_restart_free_nothing(mesh: Mesh) -> None:
    with loaded(mesh):
        router = mesh.processes()["router"][0]
        router.kill()
        _until(lambda: held(mesh).requests > 0)  # the new one has taken requests

    left = held_in_the_end(mesh, within_s=SETTLED_WITHIN_S)

    assert left.nothing, left
    assert "Traceback" not in (mesh.home / "logs" / "router.log").read_text()
    _until(lambda: works(mesh))
