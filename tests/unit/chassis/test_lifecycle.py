"""How a service's main coroutine ends its process."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from services.chassis import lifecycle


class Lost(Exception):
    """Something a main reports in one line."""


@contextmanager
def untouched_collector() -> Iterator[None]:
    """`run` sets the garbage collector for a process of its own, which a test is not."""
    import gc  # noqa: PLC0415 - nobody else here needs it

    thresholds = gc.get_threshold()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)


async def fail() -> None:
    raise Lost("alone")


async def in_groups(failures: int) -> None:
    """As services do: what serves within what it depends on."""
    async with asyncio.TaskGroup(), asyncio.TaskGroup() as inner:
        for _ in range(failures):
            inner.create_task(fail())


def test_a_lone_failure_arrives_as_itself_out_of_any_groups() -> None:
    with untouched_collector(), pytest.raises(Lost, match="alone"):
        lifecycle.run(in_groups(1))


def test_several_failures_stay_together() -> None:
    with untouched_collector(), pytest.raises(ExceptionGroup) as caught:
        lifecycle.run(in_groups(2))

    assert len(caught.value.exceptions) == 1  # the outer group's one: the inner group
