"""structlog for every service, and one canonical line for each RPC.

JSON unless standard error is a terminal. Prompts and outputs never reach a line: handlers add
facts by name, and nothing logs a message.
"""

import asyncio
import json
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from typing import Any

import grpc
import structlog
from opentelemetry import trace

from services.chassis.identity import peer_id

# Called every second by machines
_QUIET = ("/grpc.health.v1.Health/", "/grpc.reflection.", "/opentelemetry.")

_facts: ContextVar[dict[str, Any] | None] = ContextVar("rpc_facts", default=None)
_log = structlog.get_logger("rpc")
# One for all lines: json.dumps makes a new one each time, and that takes half of a line's time.
_encode = json.JSONEncoder(default=repr).encode


def configure(service: str) -> None:
    """Sets structlog up for this process. Call it once, in main."""
    renderer: Any = (
        structlog.dev.ConsoleRenderer()
        if sys.stderr.isatty()
        else structlog.processors.JSONRenderer(serializer=_json)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)


def _json(event: dict[str, Any], **_: Any) -> str:
    return _encode(event)


def add_facts(**facts: Any) -> None:
    """Adds facts to the canonical line of the RPC that is being served; none elsewhere."""
    current = _facts.get()
    if current is not None:
        current.update(facts)


def trace_id() -> str | None:
    """The W3C trace id of the current span; None when nothing is traced."""
    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else None


class OneLine:
    """Logs each RPC once, when it has ended, with the facts that its handler added."""

    @asynccontextmanager
    async def around(self, method: str, context: grpc.aio.ServicerContext) -> AsyncIterator[None]:
        if method.startswith(_QUIET):
            yield
            return
        facts: dict[str, Any] = {}
        token = _facts.set(facts)
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        # Not later: gRPC may close an abandoned stream after its call is gone, and would read freed
        # memory then. A reset of many streams at once has killed the process so.
        peer = str(peer_id(context) or "")
        code = "CANCELLED"  # what stays when the call is cancelled
        try:
            yield
            code = _code(context) or "OK"
        except grpc.aio.AbortError:
            code = _code(context) or "UNKNOWN"
            raise
        finally:
            _reset(token)
            _log.info(
                "rpc.ended",
                method=method,
                peer=peer,
                code=code,
                total_ms=round((loop.time() - began_s) * 1000, 3),
                trace_id=trace_id(),
                **facts,
            )


def _reset(token: Any) -> None:
    # gRPC may close an abandoned stream from another context, which has its own facts
    with suppress(ValueError):
        _facts.reset(token)


def _code(context: grpc.aio.ServicerContext) -> str | None:
    code: Any = context.code()
    if not code:
        return None
    if isinstance(code, int):
        return next(each.name for each in grpc.StatusCode if each.value[0] == code)
    name: str = code.name
    return name
