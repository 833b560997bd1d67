"""What an operator is told of a request that waited."""

import pytest

from services.router.core.bands import Band
from services.router.core.flow import Queueing
from services.router.core.requests import Request
from services.router.inbound.operator import explained
from tests.unit.router.values import decision


def test_why_it_waited_is_told_as_it_was_when_it_began_to() -> None:
    queueing = Queueing("saturated", Band.BATCH, ahead=3, counter=120.0, predicted_s=2.5)
    request = Request(decision(queue_wait_s=3.0, queueing=queueing))

    why = explained("r1", request)

    assert (why.queue_reason, why.queue_band, why.queued_ahead) == ("saturated", "batch", 3)
    assert why.virtual_counter == pytest.approx(120.0)
    assert why.predicted_wait.ToMilliseconds() == 2500
    assert why.queue_wait.ToMilliseconds() == 3000


def test_of_one_that_did_not_wait_nothing_is_told() -> None:
    why = explained("r1", Request(decision(queue_wait_s=0.0)))

    assert (why.queue_reason, why.HasField("predicted_wait")) == ("", False)
