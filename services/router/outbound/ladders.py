"""Reads the ladders that policy streams."""

from collections.abc import Iterable, Mapping

import structlog

from evenflow.policy.v1 import tenant_service_pb2 as pb
from services.router.core.rungs import (
    FallbackModel,
    Refuse,
    Rung,
    SmallerContext,
    SmallerOutput,
    Trigger,
)

_TRIGGERS: Mapping[int, Trigger] = {
    pb.DEGRADATION_TRIGGER_SATURATED: Trigger.SATURATED,
    pb.DEGRADATION_TRIGGER_DEADLINE_AT_RISK: Trigger.DEADLINE_AT_RISK,
    pb.DEGRADATION_TRIGGER_MODEL_UNHEALTHY: Trigger.MODEL_UNHEALTHY,
    pb.DEGRADATION_TRIGGER_BUDGET_LOW: Trigger.BUDGET_LOW,
}
_log = structlog.get_logger(__name__)


def ladder(rungs: Iterable[pb.Rung]) -> tuple[Rung, ...]:
    """A rung of a newer policy, which this router can't take, is left out."""
    found = [_rung(each) for each in rungs]
    known = tuple(each for each in found if each is not None)
    if len(known) < len(found):
        _log.error("policy.unknown_rungs", left_out=len(found) - len(known))
    return known


def _rung(rung: pb.Rung) -> Rung | None:
    when = _TRIGGERS.get(rung.trigger)
    if when is None:
        return None
    match rung.WhichOneof("step"):
        case "fallback_model":
            return FallbackModel(when, rung.fallback_model)
        case "smaller_output":
            return SmallerOutput(when, max(1, rung.smaller_output))
        case "smaller_context":
            return SmallerContext(when, max(1, rung.smaller_context))
        case "refuse":
            return Refuse(when)
    return None
