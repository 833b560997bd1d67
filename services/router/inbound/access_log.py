"""Envoy reports: how each request ended. Frees its slot, writes its one line, passes its record on.

Entries come in batches, up to 100 ms late, and may be lost or repeated: a request's end is acted on
once. What Envoy refused before it asked the router is written down without a tenant.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import structlog
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsResponse
from envoy.service.accesslog.v3.als_pb2_grpc import AccessLogServiceServicer

from services.router.core.attempts import LostAttempt
from services.router.core.endings import Code, Ended
from services.router.core.requests import Request, Requests
from services.router.degradations import degradations_text, done
from services.router.inbound.lessons import Lessons
from services.router.inbound.log_entries import arm, ended

_QUIET = ("/grpc.health.v1.Health/", "/grpc.reflection.")  # asked every second by machines
_log = structlog.get_logger("request")


class AccessLogServicer(AccessLogServiceServicer):  # type: ignore[misc] # xds-protos has no types
    """`record` is told of each request that was meant for a runtime, `tell` of attempts that no end
    counts, of requests that are known by their end alone."""

    def __init__(
        self,
        requests: Requests,
        lessons: Lessons,
        record: Callable[[Request, Ended], None] | None,
        *,
        tell: Callable[[LostAttempt], None] = lambda _: None,
    ) -> None:
        self._requests = requests
        self._lessons = lessons
        self._record = record
        self._tell = tell
        self._reading: set[asyncio.Task[None]] = set()

    def close(self) -> None:
        """Ends all streams, so that a drain need not wait for those that have no end."""
        for each in self._reading:
            each.cancel()

    async def StreamAccessLogs(  # noqa: N802 - the name is the proto's
        self, request_iterator: AsyncIterator[Any], context: grpc.aio.ServicerContext
    ) -> Any:
        await context.send_initial_metadata(())  # else Envoy keeps what it sends, to send it again
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(self._read(request_iterator))
            self._reading.add(reading)
            reading.add_done_callback(self._reading.discard)
        return StreamAccessLogsResponse()

    async def _read(self, messages: AsyncIterator[Any]) -> None:
        async for message in messages:
            for entry in message.http_logs.log_entry:
                sent = arm(entry)
                if sent is None:
                    self._take(ended(entry))
                elif self._requests.arm_sent(sent.request_id, sent.endpoint):
                    self._lessons.arm_sent(sent.request_id)

    def _take(self, end: Ended) -> None:
        is_paid = self._requests.has_arm(end.request_id)
        request = self._requests.end(end)
        if request is None or end.method.startswith(_QUIET):
            return
        end = request.ended or end
        if request.decision is not None:
            self._lessons.learn(request.decision, end, is_paid=is_paid)
        if self._record and (request.decision is None or request.decision.for_runtime):
            self._record(request, end)
        write_line(request, end)
        for each in self._requests.claim(end.request_id):
            self._tell(each)


def write_line(request: Request, end: Ended) -> None:
    decision = request.decision
    usage = end.usage
    facts = {
        "method": decision.method if decision else end.method,
        "code": Code(end.grpc_code).name,
        "reason": reason(request, end),
        "request_id": end.request_id,
        "tenant": end.tenant,
        "endpoint": end.endpoint,
        "attempts": end.attempts,
        "hedge": ("won" if end.hedge_won else "lost") if end.hedged else None,
        "prompt_tokens": usage.prompt_tokens if usage else None,
        "cached_tokens": usage.cached_prompt_tokens if usage else None,
        "output_tokens": usage.output_tokens if usage else None,
        "ttft_ms": _ms(end.first_token_s),
        "total_ms": _ms(end.duration_s),
        "degraded": degradations_text(done(decision, end)),
    }
    if decision is not None:
        facts |= {
            "tenant": decision.tenant,
            "workload": decision.workload,
            "model": decision.model,
            "expected_cached_tokens": decision.expected_cached_tokens if usage else None,
            "workload_class": decision.workload_class.value if decision.workload_class else None,
            "queue_ms": _ms(decision.queue_wait_s),
            "cache": decision.cache,
            "resumed_tokens": decision.resumed_tokens or None,
            "reservation": decision.reservation or None,
            "trace_id": decision.trace_id,
            "estimated_prompt_tokens": decision.prompt_tokens or None,
        }
    _log.info(
        "request.ended", **{key: value for key, value in facts.items() if value not in (None, "")}
    )


def reason(request: Request, end: Ended) -> str:
    """The router's own refusal, else what the runtime said."""
    decision = request.decision
    return decision.refusal.value if decision and decision.refusal else end.reason


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
