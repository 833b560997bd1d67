"""A router as Envoy sees it: answers Check from a script, keeps what it was asked and told."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from envoy.config.core.v3 import base_pb2
from envoy.service.accesslog.v3 import als_pb2
from envoy.service.accesslog.v3.als_pb2_grpc import AccessLogServiceServicer
from envoy.service.auth.v3 import external_auth_pb2 as pb
from envoy.service.auth.v3.external_auth_pb2_grpc import AuthorizationServicer
from google.rpc.status_pb2 import Status

Answer = Callable[[Any], Awaitable[Any]]


def overwriting(headers: dict[str, str]) -> list[Any]:
    action = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
    return [
        base_pb2.HeaderValueOption(
            header=base_pb2.HeaderValue(key=key, value=value), append_action=action
        )
        for key, value in headers.items()
    ]


def let_go(endpoints: str, **headers: str) -> Any:
    """Headers are named with "_" for "-"."""
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return pb.CheckResponse(
        status=Status(code=0),
        ok_response=pb.OkHttpResponse(
            headers=overwriting({"x-evenflow-endpoints": endpoints, **named})
        ),
    )


def refuse(code: grpc.StatusCode, http: int, headers: dict[str, str], body: str = "") -> Any:
    number: int = code.value[0]
    return pb.CheckResponse(
        status=Status(code=number),
        denied_response=pb.DeniedHttpResponse(
            status={"code": http}, headers=overwriting(headers), body=body
        ),
    )


class FakeCheck(AuthorizationServicer):  # type: ignore[misc] # untyped
    """Set `answer`; read `asked`. `cancelled` is set when a held Check is cancelled."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[Any] = []
        self.metadata: list[dict[str, str | bytes]] = []
        self.cancelled = asyncio.Event()

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        self.asked.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        try:
            return await self.answer(request)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


class FakeAccessLog(AccessLogServiceServicer):  # type: ignore[misc] # untyped
    """Await `entry()` for each request's end, in order."""

    def __init__(self) -> None:
        self._entries: asyncio.Queue[Any] = asyncio.Queue()

    async def StreamAccessLogs(  # noqa: N802 - gRPC's name
        self, request_iterator: AsyncIterator[Any], context: Any
    ) -> Any:
        async for message in request_iterator:
            for entry in message.http_logs.log_entry:
                self._entries.put_nowait(entry)
        return als_pb2.StreamAccessLogsResponse()

    async def entry(self) -> Any:
        async with asyncio.timeout(5):
            return await self._entries.get()
