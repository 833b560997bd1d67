"""Requests that went as a test says, everything else being ordinary."""

from dataclasses import replace
from typing import Any

from evenflow.inference.v1 import workload_class_pb2
from evenflow.inference.v1.inference_service_pb2 import Usage as UsageMessage
from evenflow.telemetry.v1 import record_service_pb2 as pb
from services.telemetry.core.aggregates import Aggregates
from services.telemetry.core.labels import Labels
from services.telemetry.core.records import Observation, Usage, WorkloadClass

ORDINARY = Observation(
    tenant="acme",
    model="smollm2",
    workload_class=WorkloadClass.INTERACTIVE,
    engine="llamacpp",
    code="OK",
    reason="",
    queue_wait_s=0.002,
    time_to_first_token_s=0.1,
    duration_s=1.1,
    usage=Usage(prompt_tokens=20, cached_prompt_tokens=16, output_tokens=11),
    attempts=1,
    expected_cached_tokens=12,
)
REFUSED = replace(
    ORDINARY,
    engine="",
    code="PERMISSION_DENIED",
    reason="MODEL_NOT_ALLOWED",
    queue_wait_s=None,
    time_to_first_token_s=None,
    duration_s=0.001,
    usage=None,
    attempts=0,
    expected_cached_tokens=0,
)


def observed(**changes: Any) -> Observation:
    return replace(ORDINARY, **changes)


def aggregates(*, max_tenants: int = 10, max_models: int = 10, max_series: int = 50) -> Aggregates:
    labels = Labels(max_tenants=max_tenants, max_models=max_models, max_series=max_series)
    return Aggregates(labels, slot_s=60.0, slots=5)


def record(**changes: Any) -> pb.RequestRecord:
    """ORDINARY as a router reports it."""
    made = pb.RequestRecord(
        request_id="r-1",
        tenant="acme",
        model="smollm2",
        workload_class=workload_class_pb2.WORKLOAD_CLASS_INTERACTIVE,
        engine="llamacpp",
        usage=UsageMessage(prompt_tokens=20, cached_prompt_tokens=16, output_tokens=11),
        attempts=1,
        expected_cached_tokens=12,
        **changes,
    )
    made.queue_wait.FromMilliseconds(2)
    made.time_to_first_token.FromMilliseconds(100)
    made.duration.FromMilliseconds(1100)
    return made
