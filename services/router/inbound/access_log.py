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

from services.router.core.circuits import Circuits, outcomes
from services.router.core.endings import Code, Ended
from services.router.core.picking import usable
from services.router.core.requests import Decision, Request, Requests
from services.router.inbound.log_entries import ended

_QUIET = ("/grpc.health.v1.Health/", "/grpc.reflection.")  # asked every second by machines
_log = structlog.get_logger("request")


class AccessLogServicer(AccessLogServiceServicer):  # type: ignore[misc] # xds-protos has no types
    """`record` is told of each request that was meant for a runtime."""

    def __init__(
        self,
        requests: Requests,
        circuits: Circuits,
        record: Callable[[Request, Ended], None] | None,
    ) -> None:
        self._requests = requests
        self._circuits = circuits
        self._record = record
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
                self._take(ended(entry))

    def _take(self, end: Ended) -> None:
        request = self._requests.end(end)
        if request is None or end.method.startswith(_QUIET):
            return
        if request.decision is not None:
            self._learn(request.decision, end)
        if self._record and (request.decision is None or request.decision.for_runtime):
            self._record(request, end)
        write_line(request, end)

    def _learn(self, decision: Decision, end: Ended) -> None:
        now_s = asyncio.get_running_loop().time()
        # Not Envoy's own time of its beginning: a wall clock jumps. This is 100 ms late at most.
        began_s = now_s - end.duration_s
        for outcome in outcomes(usable(decision.candidates), end):
            self._circuits.learn(outcome, began_s=began_s, now_s=now_s)


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
        "prompt_tokens": usage.prompt_tokens if usage else None,
        "cached_tokens": usage.cached_prompt_tokens if usage else None,
        "output_tokens": usage.output_tokens if usage else None,
        "ttft_ms": _ms(end.first_token_s),
        "total_ms": _ms(end.duration_s),
    }
    if decision is not None:
        facts |= {
            "tenant": decision.tenant,
            "workload": decision.workload,
            "model": decision.model,
            "workload_class": decision.workload_class.value if decision.workload_class else None,
            "queue_ms": _ms(decision.queue_wait_s),
            "resumed_tokens": decision.resumed_tokens or None,
            "trace_id": decision.trace_id,
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
