import asyncio
import random

import pytest
from structlog.testing import capture_logs

from services.chassis.streams import keep_open
from tests import virtual_time


class LongestWait(random.Random):
    """Jitter that always waits the most allowed, so times in tests are exact."""

    def uniform(self, _: float, b: float) -> float:
        return b


class Peer:
    """Notes when it is called; stays for `stays_s` the first `visits` times."""

    def __init__(self, error: Exception | None = None, stays_s: float = 0.0) -> None:
        self.calls_at_s: list[float] = []
        self._error = error
        self._stays_s = stays_s

    async def once(self) -> None:
        self.calls_at_s.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self._stays_s)
        if self._error is not None:
            raise self._error


def watch(peer: Peer, for_s: float) -> list[float]:
    async def scenario() -> None:
        async with asyncio.timeout(for_s):
            await keep_open(peer.once, what="test", jitter=LongestWait(), at_most_s=0.4)

    with pytest.raises(TimeoutError):
        virtual_time.run(scenario())
    return [round(at_s, 3) for at_s in peer.calls_at_s]


def test_waits_longer_while_the_peer_stays_away_but_never_too_long() -> None:
    assert watch(Peer(OSError("refused")), 1.6) == [0.0, 0.05, 0.15, 0.35, 0.75, 1.15, 1.55]


def test_a_stream_that_lasted_is_tried_again_at_once() -> None:
    assert watch(Peer(stays_s=10.0), 21.0) == [0.0, 10.05, 20.1]


def test_a_row_of_failures_is_logged_once() -> None:
    with capture_logs() as logs:
        watch(Peer(OSError("refused")), 1.6)

    assert [(entry["event"], entry["reason"]) for entry in logs] == [("stream.lost", "refused")]


def test_a_bug_is_not_retried() -> None:
    peer = Peer(ZeroDivisionError())

    with pytest.raises(ZeroDivisionError):
        virtual_time.run(keep_open(peer.once, what="test", jitter=LongestWait()))
