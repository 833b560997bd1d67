"""`evenflow explain`: why a request went where it went, and how it ended."""

from collections.abc import Iterator
from typing import cast

import grpc
from rich.console import Console
from rich.table import Table

from evenflow.errors import FailedCall, error_of
from evenflow.inference.v1.workload_class_pb2 import WorkloadClass
from evenflow.router.v1 import router_service_pb2 as pb
from evenflow.router.v1.router_service_pb2_grpc import RouterServiceStub

CALL_S = 5.0


def explain(channel: grpc.Channel, request_id: str) -> None:
    try:
        why: pb.ExplainResponse = RouterServiceStub(channel).Explain(
            pb.ExplainRequest(request_id=request_id), timeout=CALL_S
        )
    except grpc.RpcError as error:
        raise error_of(cast(FailedCall, error)) from error
    console = Console(highlight=False, markup=False)
    for line in story(why):
        console.print(line)
    candidates = Table("endpoint, best first", "tokens in flight", "left out because")
    for each in why.candidates:
        candidates.add_row(each.address, str(each.in_flight_tokens), each.left_out)
    if why.candidates:
        console.print(candidates)


def story(why: pb.ExplainResponse) -> Iterator[str]:
    """The request's life in lines."""
    class_ = WorkloadClass.Name(why.workload_class).removeprefix("WORKLOAD_CLASS_").lower()
    yield f"request   {why.request_id}"
    yield f"asked     {why.received_at.ToJsonString()} by {why.tenant}/{why.workload}"
    yield (
        f"for       {why.model} as {class_}, about {why.estimated_prompt_tokens} prompt tokens, "
        f"at most {why.max_output_tokens} output tokens"
    )
    if why.resumed_tokens:
        yield f"resumed   after {why.resumed_tokens} tokens that a broken stream had written"
    if why.trace_id:
        yield f"trace     {why.trace_id}"
    if why.refusal_reason:
        yield f"refused   {why.refusal_reason}"
        return
    yield f"waited    {why.queue_wait.ToTimedelta().total_seconds() * 1000:.1f} ms in the router"
    if not why.HasField("outcome"):
        yield "ended     not yet, or its end was never reported"
        return
    yield from _ending(why.outcome)


def _ending(outcome: pb.ExplainResponse.Outcome) -> Iterator[str]:
    if outcome.HasField("time_to_first_token"):
        ttft_s = outcome.time_to_first_token.ToTimedelta().total_seconds()
        yield f"answered  by {outcome.endpoint}, first token after {ttft_s * 1000:.0f} ms"
    duration_s = outcome.duration.ToTimedelta().total_seconds()
    yield (
        f"ended     {_code_name(outcome.grpc_code)} after {duration_s:.2f} s, "
        f"{outcome.output_tokens} tokens, {outcome.attempts} attempts"
    )


def _code_name(number: int) -> str:
    names = {code.value[0]: code.name for code in grpc.StatusCode}
    return names.get(number, str(number))
