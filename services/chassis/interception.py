"""Puts asynchronous contexts around every call of a server, unary or streaming.

All of them share one wrapper, since each wrapper of a stream is paid for with every message.
"""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing
from typing import Any, Protocol

import grpc


class Around(Protocol):
    """What stands around a call. May raise to refuse it, and sees what it raises."""

    def around(
        self, method: str, context: grpc.aio.ServicerContext
    ) -> AbstractAsyncContextManager[None]: ...


class Interceptor(grpc.aio.ServerInterceptor):
    """`parts` from the outside in."""

    def __init__(self, parts: Sequence[Around]) -> None:
        self._parts = parts

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            return handler  # an unknown method; gRPC answers UNIMPLEMENTED
        return self.wrap(handler, handler_call_details.method)

    def wrap(self, handler: Any, method: str) -> Any:
        """The same handler, with the parts around it."""
        kind = ("stream" if handler.request_streaming else "unary") + (
            "_stream" if handler.response_streaming else "_unary"
        )
        inner = getattr(handler, kind)
        # A handler that streams by context.write is a coroutine, as the health servicer's Watch.
        wrap = self._generator if inspect.isasyncgenfunction(inner) else self._coroutine
        build = getattr(grpc, f"{kind}_rpc_method_handler")
        return build(
            wrap(inner, method, _decoder(handler)),
            None,  # decoded inside the parts, which make a status of what is no message
            handler.response_serializer,
        )

    def _coroutine(
        self, inner: Callable[..., Any], method: str, decode: Callable[[Any], Any]
    ) -> Callable[..., Any]:
        async def call(request: Any, context: grpc.aio.ServicerContext) -> object:
            async with AsyncExitStack() as stack:
                await self._enter(stack, method, context)
                return await inner(decode(request), context)
            raise AssertionError("no part swallows an error")

        return call

    def _generator(
        self, inner: Callable[..., Any], method: str, decode: Callable[[Any], Any]
    ) -> Callable[..., Any]:
        async def call(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[object]:
            async with AsyncExitStack() as stack:
                await self._enter(stack, method, context)
                async with aclosing(inner(decode(request), context)) as responses:
                    async for response in responses:
                        yield response

        return call

    async def _enter(
        self, stack: AsyncExitStack, method: str, context: grpc.aio.ServicerContext
    ) -> None:
        for part in self._parts:
            await stack.enter_async_context(part.around(method, context))


def _decoder(handler: Any) -> Callable[[Any], Any]:
    """gRPC itself would tell a caller which Python exception its bytes met."""
    decode: Callable[[Any], Any] = handler.request_deserializer

    async def each(requests: AsyncIterator[bytes]) -> AsyncIterator[object]:
        async for request in requests:
            yield decode(request)

    return each if handler.request_streaming else decode


class Wrapped:
    """Takes servicers for a server without interceptors, and puts the parts around these alone.

    An interceptor costs every call of its server some 50 us, also those that it leaves alone.
    """

    def __init__(self, server: grpc.aio.Server, interceptor: Interceptor) -> None:
        self._server = server
        self._interceptor = interceptor

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        wrapped = tuple(_WrappedHandler(each, self._interceptor) for each in handlers)
        self._server.add_generic_rpc_handlers(wrapped)

    def add_registered_method_handlers(self, *_: Any) -> None:
        """Generated code offers the same handlers a second time; the generic ones serve."""


class _WrappedHandler(grpc.GenericRpcHandler):
    def __init__(self, inner: grpc.GenericRpcHandler, interceptor: Interceptor) -> None:
        self._inner = inner
        self._interceptor = interceptor

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        handler: Any = self._inner.service(handler_call_details)
        if handler is None:
            return None
        return self._interceptor.wrap(handler, handler_call_details.method)
