"""Follows each runtime that the router was told of: its state as a stream, and how to empty it."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Protocol

import structlog

from evenflow.runtime.v1 import runtime_service_pb2 as pb
from evenflow.runtime.v1.runtime_service_pb2_grpc import RuntimeServiceStub
from services.chassis.identity import TlsFiles, channel
from services.router.core.credentials import Cut
from services.router.core.endpoints import (
    Endpoint,
    Endpoints,
    ModelState,
    Readiness,
    RuntimeState,
)
from services.router.core.requests import Requests
from services.router.core.silence import Silence
from services.router.outbound.hearing import while_heard

# For the TLS handshake and the first state. Where packets are lost, the next try comes soon enough
# after they are not; TCP by itself would wait twice as long for each of its own.
_CONNECT_S = 3.0
_READINESS = {
    pb.READINESS_LOADING: Readiness.LOADING,
    pb.READINESS_READY: Readiness.READY,
    pb.READINESS_FAILED: Readiness.FAILED,
}
_CUTS = {
    Cut.API_KEY_REVOKED: pb.CUT_REASON_API_KEY_REVOKED,
    Cut.CERTIFICATE_REVOKED: pb.CUT_REASON_CERTIFICATE_REVOKED,
}
_log = structlog.get_logger(__name__)


class Runtime(Protocol):
    """One runtime. All raise grpc.aio.AioRpcError or OSError when it can't be reached."""

    address: str

    def states(self) -> AsyncGenerator[RuntimeState, None]:
        """Its state now, on each change, and at least every 200 ms. Ends when the runtime does."""

    async def cut(self, request_ids: Sequence[str], why: Cut, *, within_s: float) -> int:
        """Ends the attempts of those requests that it has; how many there were."""

    async def drain(self, *, within_s: float) -> None:
        """Refuses new requests; returns when the running ones have ended."""


class Judge(Protocol):
    """Holds against an endpoint what its requests told: circuits, outliers."""

    def restarted(self, address: str) -> None:
        """Another process serves there now."""


class GrpcRuntime:
    """Opens a channel for each call, so that each reads the certificate that is valid then."""

    def __init__(self, address: str, tls: TlsFiles) -> None:
        self.address = address
        self._tls = tls

    async def states(self) -> AsyncGenerator[RuntimeState, None]:
        async with channel(self.address, self._tls, server="runtime") as opened:
            call = RuntimeServiceStub(opened).WatchState(pb.WatchStateRequest())
            try:
                async for response in call:
                    yield _state(response)
            finally:
                call.cancel()  # a no-op once the stream has ended

    async def cut(self, request_ids: Sequence[str], why: Cut, *, within_s: float) -> int:
        asked = pb.CutAttemptsRequest(request_ids=request_ids, reason=_CUTS[why])
        async with channel(self.address, self._tls, server="runtime") as opened:
            answer = await RuntimeServiceStub(opened).CutAttempts(asked, timeout=within_s)
        return answer.cut

    async def drain(self, *, within_s: float) -> None:
        async with channel(self.address, self._tls, server="runtime") as opened:
            await RuntimeServiceStub(opened).Drain(pb.DrainRequest(), timeout=within_s)


class RuntimeFollower:
    """Writes what a runtime says, and its silence, into what the router knows.

    `changed` is told when the set of endpoints in service may be another, `heard` of each state.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        requests: Requests,
        judges: Sequence[Judge],
        changed: Callable[[], None],
        *,
        silence_s: float,
    ) -> None:
        self.heard: Callable[[Endpoint], None] = lambda _: None
        self._endpoints = endpoints
        self._requests = requests
        self._judges = judges
        self._changed = changed
        self._silence_s = silence_s

    async def follow(self, runtime: Runtime) -> None:
        """Until the stream ends, fails, or falls silent; the endpoint has left then.

        Raises:
            TimeoutError: nothing came for longer than a living runtime is silent.
        """
        limit_s = max(_CONNECT_S, self._silence_s)
        silence = Silence(limit_s=limit_s, now_s=asyncio.get_running_loop().time())
        try:
            async with while_heard(silence), aclosing(runtime.states()) as states:
                async for state in states:
                    silence.heard(limit_s=self._silence_s)
                    self._saw(runtime.address, state)
        finally:
            self._lost(runtime.address)

    def _saw(self, address: str, state: RuntimeState) -> None:
        before = self._endpoints.get(address)
        if self._endpoints.saw(address, state):
            given_up = self._requests.restarted(address)
            for each in self._judges:
                each.restarted(address)
            _log.warning("endpoint.restarted", endpoint=address, given_up=len(given_up))
        kv_tokens = state.kv_blocks_total * state.kv_block_tokens
        self._requests.expectations.resize(address, kv_tokens=kv_tokens)
        after = self._endpoints.get(address)
        self.heard(after)
        if (before.ready, before.reachable) != (after.ready, after.reachable):
            _log.info(
                "endpoint.changed",
                endpoint=address,
                reachable=True,
                ready=after.ready,
                stalled=after.stalled,
            )
            self._changed()

    def _lost(self, address: str) -> None:
        before = self._endpoints.get(address)
        self._endpoints.lost(address)
        if before.reachable:
            _log.warning("endpoint.lost", endpoint=address)
            self._changed()


def _state(response: pb.WatchStateResponse) -> RuntimeState:
    return RuntimeState(
        instance_id=response.instance_id,
        engine=response.engine,
        models=tuple(_model(each) for each in response.models),
        draining=response.draining,
        running=response.running,
        waiting=response.waiting,
        kv_blocks_free=response.kv_blocks_free,
        kv_blocks_total=response.kv_blocks_total,
        kv_block_tokens=response.kv_block_tokens,
        prefix_cache_query_tokens=response.prefix_cache_query_tokens,
        prefix_cache_hit_tokens=response.prefix_cache_hit_tokens,
        max_running=response.max_running,
        output_tokens=response.output_tokens,
        without_progress_s=response.without_progress.ToMilliseconds() / 1000,
        pool=response.pool,
    )


def _model(state: pb.ModelState) -> ModelState:
    # What a newer runtime calls a readiness that we don't know is not known to serve.
    readiness = _READINESS.get(state.readiness, Readiness.LOADING)
    return ModelState(state.model, state.version, readiness, state.max_context_tokens)
