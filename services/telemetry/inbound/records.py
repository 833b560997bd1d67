"""Takes the routers' request records: decode, count, no decisions."""

import itertools
from collections.abc import AsyncIterator, Callable, Iterable

import grpc
import structlog
from google.protobuf.duration_pb2 import Duration

from evenflow.inference.v1 import inference_service_pb2, workload_class_pb2
from evenflow.telemetry.v1 import record_service_pb2 as pb
from evenflow.telemetry.v1 import record_service_pb2_grpc as pb_grpc
from services.chassis.logs import add_facts
from services.chassis.open_streams import OpenStreams
from services.telemetry.core.records import (
    CODES,
    InvalidObservation,
    LostAttempt,
    Observation,
    Usage,
    WorkloadClass,
)

SERVICE: str = pb.DESCRIPTOR.services_by_name["RecordService"].full_name

_CLASSES = {
    workload_class_pb2.WORKLOAD_CLASS_INTERACTIVE: WorkloadClass.INTERACTIVE,
    workload_class_pb2.WORKLOAD_CLASS_BATCH: WorkloadClass.BATCH,
    workload_class_pb2.WORKLOAD_CLASS_HIGH_RISK: WorkloadClass.HIGH_RISK,
}

_log = structlog.get_logger(__name__)


class RecordServicer(pb_grpc.RecordServiceServicer):
    """A record that makes no sense is counted and left out; its stream goes on."""

    def __init__(
        self,
        take: Callable[[Observation], None],
        take_lost: Callable[[LostAttempt], None] = lambda _: None,
    ) -> None:
        self._take = take
        self._take_lost = take_lost
        self._streams = OpenStreams()
        self.taken = 0
        self.refused = 0

    def close(self) -> None:
        """Answers all streams."""
        self._streams.close()

    async def ReportRequests(  # noqa: N802 - the name is the proto's
        self,
        request_iterator: AsyncIterator[pb.ReportRequestsRequest],
        context: grpc.aio.ServicerContext,
    ) -> pb.ReportRequestsResponse:
        taken = 0
        try:
            async with self._streams.one():
                async for request in request_iterator:
                    taken += self._take_all(request)
        finally:
            add_facts(records=taken)
        return pb.ReportRequestsResponse(records=taken)

    def _take_all(self, request: pb.ReportRequestsRequest) -> int:
        taken = 0
        each: Iterable[pb.RequestRecord | pb.LostAttempt]
        each = itertools.chain(request.records, request.lost_attempts)
        for record in each:
            try:
                self._take_one(record)
            except InvalidObservation as error:
                self.refused += 1
                _log.warning("record.refused", problem=str(error), request_id=record.request_id)
            else:
                taken += 1
        self.taken += taken
        return taken

    def _take_one(self, record: pb.RequestRecord | pb.LostAttempt) -> None:
        if isinstance(record, pb.LostAttempt):
            self._take_lost(LostAttempt(tenant=record.tenant, usage=_usage(record.usage)))
        else:
            self._take(decode(record))


def decode(record: pb.RequestRecord) -> Observation:
    """Raises InvalidObservation."""
    if not 0 <= record.grpc_code < len(CODES):
        raise InvalidObservation(f"grpc_code must be a gRPC code, got {record.grpc_code}")
    first = record.time_to_first_token if record.HasField("time_to_first_token") else None
    wait = record.queue_wait if record.HasField("queue_wait") else None
    return Observation(
        tenant=record.tenant,
        model=record.model,
        workload_class=_CLASSES.get(record.workload_class, WorkloadClass.UNKNOWN),
        engine=record.engine,
        code=CODES[record.grpc_code],
        reason=record.reason,
        queue_wait_s=_seconds(wait),
        time_to_first_token_s=_seconds(first),
        duration_s=_seconds(record.duration) or 0.0,
        # A cached answer took no token of an engine.
        usage=_usage(record.usage) if record.HasField("usage") and not record.cached else None,
        attempts=record.attempts,
        hedged=record.hedged,
        hedge_won=record.hedge_won,
        expected_cached_tokens=record.expected_cached_tokens,
        degradations=tuple((each.rung, each.reason) for each in record.degradations),
    )


def _usage(usage: inference_service_pb2.Usage) -> Usage:
    return Usage(
        prompt_tokens=usage.prompt_tokens,
        cached_prompt_tokens=usage.cached_prompt_tokens,
        output_tokens=usage.output_tokens,
    )


def _seconds(duration: Duration | None) -> float | None:
    return None if duration is None else duration.seconds + duration.nanos / 1e9
