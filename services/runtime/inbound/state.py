"""evenflow.runtime.v1: tells routers how this runtime does, and empties it when asked."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing

import grpc
import structlog
from google.protobuf.duration_pb2 import Duration

from evenflow.runtime.v1 import runtime_service_pb2 as pb
from evenflow.runtime.v1.runtime_service_pb2_grpc import RuntimeServiceServicer
from services.chassis.deadline import Deadline
from services.chassis.revocation import CertificateRevoked
from services.runtime.core.engine import InvalidInput
from services.runtime.core.pace import Counts, Pace
from services.runtime.inbound.cuts import KeyRevoked, Revoked
from services.runtime.inbound.serving import Serving

SERVICE = "evenflow.runtime.v1.RuntimeService"
CALLERS = {
    f"/{SERVICE}/WatchState": frozenset({"router"}),
    f"/{SERVICE}/WatchAttempts": frozenset({"router"}),
    f"/{SERVICE}/WatchAnswers": frozenset({"router"}),
    f"/{SERVICE}/Drain": frozenset({"router", "operator"}),
    f"/{SERVICE}/CutAttempts": frozenset({"router"}),
}

_LOOK_EVERY_S = 0.02  # no change is told more often
_SAY_EVERY_S = 0.2  # silence means a fault; routers wait for four of these
_LOOKS_PER_SAY = round(_SAY_EVERY_S / _LOOK_EVERY_S)
_LOOKS_PER_COUNT = 5
_REVOKED: Mapping[pb.CutReason.ValueType, Revoked] = {
    pb.CUT_REASON_API_KEY_REVOKED: KeyRevoked,
    pb.CUT_REASON_CERTIFICATE_REVOKED: CertificateRevoked,
}
_log = structlog.get_logger(__name__)


class StateServicer(RuntimeServiceServicer):
    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._instance_id = uuid.uuid4().hex
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Ends every stream, so that routers know at once."""
        self._stopping.set()
        self._serving.attempts.stop()
        self._serving.answers.close()

    async def WatchState(  # noqa: N802 - the name is the proto's
        self, request: pb.WatchStateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.WatchStateResponse]:
        pace = Pace(soon=_LOOKS_PER_COUNT, regular=_LOOKS_PER_SAY)
        while not self._stopping.is_set():
            state = self.state()
            if pace.is_due((state.models[0].readiness, state.draining), _counts(state)):
                yield state
            await asyncio.sleep(_LOOK_EVERY_S)

    async def WatchAttempts(  # noqa: N802 - the name is the proto's
        self, request: pb.WatchAttemptsRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.WatchAttemptsResponse]:
        async with aclosing(self._serving.attempts.watch()) as attempts:
            async for each in attempts:
                yield each

    async def WatchAnswers(  # noqa: N802 - the name is the proto's
        self, request: pb.WatchAnswersRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.WatchAnswersResponse]:
        if not request.router:
            raise InvalidInput("router", "must not be empty")
        async with aclosing(self._serving.answers.watch(request.router)) as answers:
            async for answer in answers:
                yield answer

    async def Drain(  # noqa: N802 - the name is the proto's
        self, request: pb.DrainRequest, context: grpc.aio.ServicerContext
    ) -> pb.DrainResponse:
        self._serving.draining = True
        grace_s = request.grace.ToTimedelta().total_seconds() if request.HasField("grace") else None
        try:
            async with asyncio.timeout(grace_s), asyncio.timeout(_left_s(context)):
                await self._serving.wait_until_idle()
        except TimeoutError:
            pass  # the answer says how many still run
        return pb.DrainResponse(still_running=self._serving.active)

    async def CutAttempts(  # noqa: N802 - the name is the proto's
        self, request: pb.CutAttemptsRequest, context: grpc.aio.ServicerContext
    ) -> pb.CutAttemptsResponse:
        why = _REVOKED.get(request.reason)
        if why is None:
            raise InvalidInput("reason", f"must be one of the reasons, got {request.reason}")
        cut = self._serving.cuts.cut(request.request_ids, why)
        if cut:
            _log.info("attempts.cut", cut=cut, why=pb.CutReason.Name(request.reason))
        return pb.CutAttemptsResponse(cut=cut)

    def state(self) -> pb.WatchStateResponse:
        serving = self._serving
        engine = serving.engine
        now = engine.state()
        return pb.WatchStateResponse(
            instance_id=self._instance_id,
            engine=engine.name,
            models=[
                pb.ModelState(
                    model=engine.model,
                    version=engine.version,
                    readiness=_readiness(ready=serving.ready, failed=now.failed),
                    max_context_tokens=engine.max_context_tokens,
                )
            ],
            draining=serving.draining,
            running=now.running,
            waiting=now.waiting,
            kv_blocks_free=now.kv_blocks_free,
            kv_blocks_total=now.kv_blocks_total,
            kv_block_tokens=now.kv_block_tokens,
            prefix_cache_query_tokens=now.prefix_cache_query_tokens,
            prefix_cache_hit_tokens=now.prefix_cache_hit_tokens,
            max_running=now.max_running,
            output_tokens=now.output_tokens,
            without_progress=_duration(serving.without_progress_s),
            pool=serving.pool,
        )


def _readiness(*, ready: bool, failed: bool) -> pb.Readiness.ValueType:
    if failed:
        return pb.READINESS_FAILED
    return pb.READINESS_READY if ready else pb.READINESS_LOADING


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromMilliseconds(round(seconds * 1000))
    return duration


def _counts(state: pb.WatchStateResponse) -> Counts:
    return Counts(
        running=state.running,
        waiting=state.waiting,
        max_running=state.max_running,
        kv_blocks_free=state.kv_blocks_free,
        kv_blocks_total=state.kv_blocks_total,
    )


def _left_s(context: grpc.aio.ServicerContext) -> float | None:
    """Answers in time even without a grace. None without a deadline."""
    if context.time_remaining() is None:
        return None
    return max(0.0, Deadline.of(context).remaining_s() - _LOOK_EVERY_S)
