"""Tells telemetry how requests went, in batches, and never waits for it.

Telemetry away or slow, the newest records are kept and the oldest dropped and counted.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Protocol

import structlog
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from evenflow.telemetry.v1 import record_service_pb2 as pb
from evenflow.telemetry.v1.record_service_pb2_grpc import RecordServiceStub
from services.chassis.identity import TlsFiles, channel
from services.router.classes import NUMBERS
from services.router.core.attempts import LostAttempt
from services.router.core.endings import Ended
from services.router.core.requests import Decision, Request
from services.router.core.value import value
from services.router.degradations import done, messages

_MOST_AT_ONCE = 500  # records in one message, about 100 KiB
_GATHER_S = 0.25  # records wait for company: a message costs 0.3 ms here, however small
_CONNECT_S = 5.0
_NANOS = 1_000_000_000
_log = structlog.get_logger(__name__)


@value
class Record:
    request: Request
    ended: Ended


Told = Record | LostAttempt


class RecordBuffer:
    """What telemetry has not been told yet; the oldest make way when it is full."""

    def __init__(self, *, capacity: int) -> None:
        self._records: deque[Told] = deque()
        self._capacity = capacity
        self._waiting = asyncio.Event()
        self._hurries = asyncio.Event()
        self._dropped = 0  # since the last time that it was emptied

    @property
    def dropped(self) -> int:
        return self._dropped

    def add(self, request: Request, ended: Ended) -> None:
        self._add(Record(request, ended))

    def add_attempt(self, lost: LostAttempt) -> None:
        self._add(lost)

    def _add(self, told: Told) -> None:
        if len(self._records) == self._capacity:
            self._records.popleft()
            self._dropped += 1
            if self._dropped == 1:
                _log.warning("records.dropping", capacity=self._capacity)
        self._records.append(told)
        self._waiting.set()

    def hurry(self) -> None:
        """Nothing waits for company any more: this process ends."""
        self._hurries.set()

    async def batches(self) -> AsyncIterator[Sequence[Told]]:
        """As they fill. What was taken is gone, whatever becomes of it."""
        while True:
            await self._waiting.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(_GATHER_S):
                    await self._hurries.wait()
            while self._records:
                taken = min(_MOST_AT_ONCE, len(self._records))
                yield [self._records.popleft() for _ in range(taken)]
            self._waiting.clear()
            if self._dropped:
                _log.warning("records.dropped", records=self._dropped)
                self._dropped = 0


class Telemetry(Protocol):
    async def report(self, batches: AsyncIterator[Sequence[Told]]) -> None:
        """Sends until the batches end.

        Raises grpc.aio.AioRpcError or OSError when telemetry can't be reached.
        """


class GrpcTelemetry:
    def __init__(self, address: str, tls: TlsFiles) -> None:
        self._address = address
        self._tls = tls

    async def report(self, batches: AsyncIterator[Sequence[Told]]) -> None:
        async with channel(self._address, self._tls, server="telemetry") as opened:
            async with asyncio.timeout(_CONNECT_S):
                await opened.channel_ready()  # no batch is taken for a peer who is away
            await RecordServiceStub(opened).ReportRequests(_messages(batches))


async def _messages(
    batches: AsyncIterator[Sequence[Told]],
) -> AsyncIterator[pb.ReportRequestsRequest]:
    async for batch in batches:
        yield pb.ReportRequestsRequest(
            records=[message(each) for each in batch if isinstance(each, Record)],
            lost_attempts=[_lost(each) for each in batch if isinstance(each, LostAttempt)],
        )


def _lost(attempt: LostAttempt) -> pb.LostAttempt:
    encoded = pb.LostAttempt(
        request_id=attempt.request_id,
        attempt=attempt.number,
        tenant=attempt.tenant,
        endpoint=attempt.endpoint,
        model_version=attempt.model_version,
    )
    encoded.usage.prompt_tokens = attempt.usage.prompt_tokens
    encoded.usage.cached_prompt_tokens = attempt.usage.cached_prompt_tokens
    encoded.usage.output_tokens = attempt.usage.output_tokens
    return encoded


def message(record: Record) -> pb.RequestRecord:
    """Written field by field: the well-known types' own conversions are Python, and slow."""
    ended = record.ended
    encoded = pb.RequestRecord(
        request_id=ended.request_id,
        tenant=ended.tenant,
        model_version=ended.model_version,
        engine=ended.engine,
        endpoint=ended.endpoint,
        grpc_code=ended.grpc_code,
        reason=ended.reason,
        attempts=ended.attempts,
        hedged=ended.hedged,
        hedge_won=ended.hedge_won,
        degradations=messages(done(record.request.decision, ended)),
    )
    _write(encoded.received_at, ended.began_unix_s)
    _write(encoded.duration, ended.duration_s)
    if ended.first_token_s is not None:
        _write(encoded.time_to_first_token, ended.first_token_s)
    if ended.usage is not None:
        encoded.usage.prompt_tokens = ended.usage.prompt_tokens
        encoded.usage.cached_prompt_tokens = ended.usage.cached_prompt_tokens
        encoded.usage.output_tokens = ended.usage.output_tokens
    if record.request.decision is not None:
        _decided(encoded, record.request.decision)
    return encoded


def _decided(encoded: pb.RequestRecord, decision: Decision) -> None:
    encoded.trace_id = decision.trace_id
    encoded.tenant = decision.tenant
    encoded.workload = decision.workload
    encoded.model = decision.model
    encoded.expected_cached_tokens = decision.expected_cached_tokens
    encoded.cached = decision.cache == "hit"
    encoded.resumed_tokens = decision.resumed_tokens
    encoded.prompt = decision.prompt
    if decision.workload_class is not None:
        encoded.workload_class = NUMBERS[decision.workload_class]
    if decision.refusal is not None:
        encoded.reason = decision.refusal.value
    if decision.queue_wait_s is not None:
        _write(encoded.queue_wait, decision.queue_wait_s)


def _write(time: Duration | Timestamp, seconds: float) -> None:
    time.SetInParent()  # zero is a value too
    nanoseconds = round(seconds * _NANOS)
    time.seconds, time.nanos = divmod(nanoseconds, _NANOS)
