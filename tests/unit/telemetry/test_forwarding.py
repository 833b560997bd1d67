"""Spans reach a collector that comes and goes, and a sender never waits for it."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span
from structlog.testing import capture_logs

from services.telemetry.core.backlog import Backlog, Parcel
from services.telemetry.outbound.forwarding import Forwarder
from tests import virtual_time
from tests.fakes.collector import FakeCollector


def spans(*names: str) -> ExportTraceServiceRequest:
    scope = ScopeSpans(spans=[Span(name=name) for name in names])
    return ExportTraceServiceRequest(resource_spans=[ResourceSpans(scope_spans=[scope])])


@asynccontextmanager
async def forwarding(
    collector: FakeCollector, *, max_bytes: int = 10_000
) -> AsyncIterator[Forwarder]:
    forwarder = Forwarder(collector, max_bytes=max_bytes, jitter=random.Random(1))  # noqa: S311 - repeatable
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(forwarder.run())
        yield forwarder
        running.cancel()


def test_spans_arrive_in_order() -> None:
    async def scenario() -> tuple[list[str], int]:
        collector = FakeCollector()
        async with forwarding(collector) as forwarder:
            forwarder.offer(spans("a", "b"), spans=2)
            forwarder.offer(spans("c"), spans=1)
            await asyncio.sleep(1)
            return collector.taken, forwarder.forwarded_spans

    assert virtual_time.run(scenario()) == (["a", "b", "c"], 3)


def test_a_collector_that_was_away_gets_what_waited_and_is_logged_once() -> None:
    async def scenario() -> list[str]:
        collector = FakeCollector()
        collector.here = False
        async with forwarding(collector) as forwarder:
            forwarder.offer(spans("a"), spans=1)
            await asyncio.sleep(600)
            collector.here = True
            forwarder.offer(spans("b"), spans=1)
            await asyncio.sleep(10)
            return collector.taken

    with capture_logs() as logs:
        assert virtual_time.run(scenario()) == ["a", "b"]
    assert [entry["event"] for entry in logs] == ["collector.away", "collector.back"]


def test_the_oldest_spans_are_lost_when_too_many_wait() -> None:
    async def scenario() -> tuple[list[str], int]:
        collector = FakeCollector()
        collector.here = False
        async with forwarding(collector, max_bytes=3 * spans("00").ByteSize()) as forwarder:
            for number in range(10, 20):
                forwarder.offer(spans(str(number)), spans=1)
            await asyncio.sleep(1)
            collector.here = True
            await asyncio.sleep(10)
            return collector.taken, forwarder.dropped_spans

    assert virtual_time.run(scenario()) == (["17", "18", "19"], 7)


def test_what_a_collector_refuses_is_dropped_and_counted() -> None:
    async def scenario() -> tuple[list[str], int]:
        collector = FakeCollector(disliked="bad")
        async with forwarding(collector) as forwarder:
            forwarder.offer(spans("bad", "poor"), spans=2)
            forwarder.offer(spans("good"), spans=1)
            await asyncio.sleep(1)
            return collector.taken, forwarder.dropped_spans

    assert virtual_time.run(scenario()) == (["good"], 2)


@given(st.lists(st.integers(1, 5) | st.none(), max_size=50))
def test_a_backlog_keeps_the_newest_that_fit(steps: list[int | None]) -> None:
    backlog, oracle, dropped = Backlog[int](8), list[int](), 0
    for size in steps:
        if size is None:
            taken = backlog.take()
            assert (taken.size_bytes if taken else None) == (oracle.pop(0) if oracle else None)
            continue
        backlog.offer(Parcel(size, 1, size))
        oracle.append(size)
        while sum(oracle) > 8:
            oracle.pop(0)
            dropped += 1

    assert (len(backlog), backlog.dropped_spans) == (len(oracle), dropped)
