"""Answers operators: which endpoints there are, empty one, why did a request go where it went."""

import asyncio
from collections.abc import Callable

import grpc
from google.protobuf.duration_pb2 import Duration

from evenflow.router.v1 import router_service_pb2 as pb
from evenflow.router.v1.router_service_pb2_grpc import RouterServiceServicer
from evenflow.runtime.v1 import runtime_service_pb2 as runtime_pb
from services.chassis.callers import AllowedCallers
from services.chassis.status import ErrorTable, Status
from services.router.classes import NUMBERS
from services.router.core.attempts import LostAttempt
from services.router.core.endings import Ended
from services.router.core.endpoints import (
    Endpoint,
    Readiness,
    RuntimeState,
    UnknownEndpoint,
)
from services.router.core.hedging import NotHedged
from services.router.core.inflight import Load
from services.router.core.requests import Decision, Request, UnknownRequest
from services.router.degradations import done, messages
from services.router.inbound.mesh import Mesh

SERVICE = "evenflow.router.v1.RouterService"
CALLERS: AllowedCallers = {f"/{SERVICE}/": frozenset({"operator"})}


class EndpointUnreachable(ConnectionError):
    """The runtime does not answer now; try again, or stop it where it runs."""


ERRORS: ErrorTable = {
    UnknownEndpoint: Status(grpc.StatusCode.NOT_FOUND, "ENDPOINT_NOT_FOUND"),
    EndpointUnreachable: Status(grpc.StatusCode.UNAVAILABLE, "ENDPOINT_UNREACHABLE"),
    UnknownRequest: Status(grpc.StatusCode.NOT_FOUND, "REQUEST_NOT_FOUND"),
}
_READINESS = {
    Readiness.LOADING: runtime_pb.READINESS_LOADING,
    Readiness.READY: runtime_pb.READINESS_READY,
    Readiness.FAILED: runtime_pb.READINESS_FAILED,
}


class OperatorServicer(RouterServiceServicer):
    """`empty` leaves an endpoint out at once and tells its runtime to drain, without waiting."""

    def __init__(self, mesh: Mesh, empty: Callable[[str], None]) -> None:
        self._mesh = mesh
        self._empty = empty

    async def ListEndpoints(  # noqa: N802 - the name is the proto's
        self, request: pb.ListEndpointsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListEndpointsResponse:
        mesh, now_s = self._mesh, asyncio.get_running_loop().time()
        left_out = {**mesh.circuits.open(now_s), **mesh.outliers.out(now_s)}
        return pb.ListEndpointsResponse(
            endpoints=[
                _endpoint(each, mesh.requests.load(each.address), left_out.get(each.address, ""))
                for each in mesh.endpoints.all()
            ],
            policy_version=mesh.policy.version,
        )

    async def DrainEndpoint(  # noqa: N802 - the name is the proto's
        self, request: pb.DrainEndpointRequest, context: grpc.aio.ServicerContext
    ) -> pb.DrainEndpointResponse:
        if not self._mesh.endpoints.get(request.address).reachable:
            raise EndpointUnreachable(f"the runtime at {request.address} does not answer")
        self._empty(request.address)
        return pb.DrainEndpointResponse()

    async def Explain(  # noqa: N802 - the name is the proto's
        self, request: pb.ExplainRequest, context: grpc.aio.ServicerContext
    ) -> pb.ExplainResponse:
        request_id, requests = request.request_id, self._mesh.requests
        why = explained(request_id, requests.find(request_id))
        why.other_attempts.extend(_attempt(each) for each in requests.other_attempts(request_id))
        return why


def _endpoint(endpoint: Endpoint, load: Load, left_out: str) -> pb.Endpoint:
    return pb.Endpoint(
        address=endpoint.address,
        reachable=endpoint.reachable,
        ready=endpoint.ready,
        state=runtime_message(endpoint.state) if endpoint.state else None,
        in_flight=load.requests,
        in_flight_tokens=load.tokens,
        left_out=left_out,
    )


def explained(request_id: str, request: Request) -> pb.ExplainResponse:
    degradations = messages(done(request.decision, request.ended))
    response = pb.ExplainResponse(request_id=request_id, degradations=degradations)
    if request.decision is not None:
        response.MergeFrom(_decided(request.decision))
    if request.ended is not None:
        response.outcome.CopyFrom(_outcome(request.ended))
        response.hedge_sent = request.ended.hedged
        response.winning_attempt = request.ended.answered_attempt if request.ended.hedged else 0
        if request.decision is None:
            response.received_at.FromMicroseconds(round(request.ended.began_unix_s * 1e6))
    return response


def _decided(decision: Decision) -> pb.ExplainResponse:
    response = pb.ExplainResponse(
        tenant=decision.tenant,
        workload=decision.workload,
        model=decision.model,
        candidates=[
            pb.ExplainResponse.Candidate(
                address=each.address,
                left_out=each.left_out,
                in_flight_tokens=each.tokens,
                in_flight_prefill_tokens=each.prefill_tokens,
                in_flight_decode_tokens=each.decode_tokens,
                expected_cached_tokens=each.cached_tokens,
                kv_missing_tokens=each.kv_missing_tokens,
                cost=each.cost,
            )
            for each in decision.candidates
        ],
        other_candidates=decision.others,
        refusal_reason=decision.refusal.value if decision.refusal else "",
        trace_id=decision.trace_id,
        estimated_prompt_tokens=decision.prompt_tokens,
        max_output_tokens=decision.output_tokens,
        skipped_rungs=decision.degraded.skipped,
        cache=decision.cache,
        prompt=decision.prompt,
        resumed_tokens=decision.resumed_tokens,
    )
    response.received_at.FromMicroseconds(round(decision.received_unix_s * 1e6))
    if decision.workload_class is not None:
        response.workload_class = NUMBERS[decision.workload_class]
    if decision.queue_wait_s is not None:
        response.queue_wait.CopyFrom(_duration(decision.queue_wait_s))
    if decision.queueing is not None:
        response.queue_reason = decision.queueing.reason
        response.queue_band = decision.queueing.band.value
        response.queued_ahead = decision.queueing.ahead
        response.virtual_counter = decision.queueing.counter
        response.predicted_wait.CopyFrom(_duration(decision.queueing.predicted_s))
    if isinstance(decision.hedge, NotHedged):
        response.not_hedged = decision.hedge.value
    elif decision.hedge is not None:
        response.hedge_delay.CopyFrom(_duration(decision.hedge.delay_s))
    return response


def _outcome(ended: Ended) -> pb.ExplainResponse.Outcome:
    outcome = pb.ExplainResponse.Outcome(
        endpoint=ended.endpoint,
        grpc_code=ended.grpc_code,
        duration=_duration(ended.duration_s),
        output_tokens=ended.usage.output_tokens if ended.usage else 0,
        attempts=ended.attempts,
    )
    if ended.first_token_s is not None:
        outcome.time_to_first_token.CopyFrom(_duration(ended.first_token_s))
    return outcome


def _attempt(lost: LostAttempt) -> pb.ExplainResponse.Attempt:
    return pb.ExplainResponse.Attempt(
        number=lost.number,
        endpoint=lost.endpoint,
        prompt_tokens=lost.usage.prompt_tokens,
        cached_prompt_tokens=lost.usage.cached_prompt_tokens,
        output_tokens=lost.usage.output_tokens,
        end=(
            runtime_pb.ATTEMPT_END_MID_STREAM
            if lost.has_begun
            else runtime_pb.ATTEMPT_END_BEFORE_FIRST_TOKEN
        ),
    )


def runtime_message(state: RuntimeState) -> runtime_pb.WatchStateResponse:
    return runtime_pb.WatchStateResponse(
        instance_id=state.instance_id,
        engine=state.engine,
        models=[
            runtime_pb.ModelState(
                model=each.model,
                version=each.version,
                readiness=_READINESS[each.readiness],
                max_context_tokens=each.max_context_tokens,
            )
            for each in state.models
        ],
        draining=state.draining,
        running=state.running,
        waiting=state.waiting,
        kv_blocks_free=state.kv_blocks_free,
        kv_blocks_total=state.kv_blocks_total,
        kv_block_tokens=state.kv_block_tokens,
        prefix_cache_query_tokens=state.prefix_cache_query_tokens,
        prefix_cache_hit_tokens=state.prefix_cache_hit_tokens,
        max_running=state.max_running,
        output_tokens=state.output_tokens,
        without_progress=_duration(state.without_progress_s),
        pool=state.pool,
    )


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration
