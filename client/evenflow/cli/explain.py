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
from evenflow.runtime.v1 import runtime_service_pb2 as runtime

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
    if why.candidates:
        console.print(candidates_table(why))
    for reason, number in sorted(why.other_candidates.items()):
        console.print(f"and {number} more: {reason or 'could be used, at a higher cost'}")


def candidates_table(why: pb.ExplainResponse) -> Table:
    """In tokens; fits 80 columns."""
    table = Table(
        "endpoint, best first", "cost", "cached", "to read", "to write", "left out because"
    )
    for each in why.candidates:
        if each.left_out:
            table.add_row(each.address, "", "", "", "", each.left_out)
            continue
        table.add_row(
            each.address,
            f"{each.cost:.0f}",
            str(each.expected_cached_tokens),
            str(each.in_flight_prefill_tokens),
            str(each.in_flight_decode_tokens),
            f"(lacks {each.kv_missing_tokens} of KV)" if each.kv_missing_tokens else "",
        )
    return table


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
    yield from _way(why)
    if why.refusal_reason:
        yield f"refused   {why.refusal_reason}"
        return
    yield f"waited    {why.queue_wait.ToTimedelta().total_seconds() * 1000:.1f} ms in the router"
    if not why.HasField("outcome"):
        yield "ended     not yet, or its end was never reported"
        return
    yield from _hedge(why)
    if why.cache:
        yield f"cache     {why.cache}"
    yield from _ending(why.outcome)
    yield from _cut_off(why)


def _way(why: pb.ExplainResponse) -> Iterator[str]:
    """What lay before it: the queue, the ladder."""
    if why.queue_reason:
        yield (
            f"queued    {why.queue_reason}, in the band {why.queue_band}, "
            f"{why.queued_ahead} ahead, its tenant at {why.virtual_counter:.0f}"
        )
    for each in why.degradations:
        yield f"degraded  {each.rung}, because {each.reason}"
    for skipped in why.skipped_rungs:
        yield f"skipped   {skipped}"


def _hedge(why: pb.ExplainResponse) -> Iterator[str]:
    if why.hedge_sent:
        delay_s = why.hedge_delay.ToTimedelta().total_seconds()
        won = f"attempt {why.winning_attempt} answered" if why.winning_attempt else "none answered"
        yield f"hedged    after {delay_s * 1000:.0f} ms, {won}"


def _cut_off(why: pb.ExplainResponse) -> Iterator[str]:
    for each in why.other_attempts:
        when = "after" if each.end == runtime.ATTEMPT_END_MID_STREAM else "before"
        yield (
            f"cut off   attempt {each.number} by {each.endpoint}, {when} its first token: "
            f"{each.prompt_tokens} prompt tokens, {each.cached_prompt_tokens} of them cached, "
            f"{each.output_tokens} output tokens"
        )


def _ending(outcome: pb.ExplainResponse.Outcome) -> Iterator[str]:
    if outcome.HasField("time_to_first_token"):
        ttft_s = outcome.time_to_first_token.ToTimedelta().total_seconds()
        by = outcome.endpoint or "the response cache"
        yield f"answered  by {by}, first token after {ttft_s * 1000:.0f} ms"
    duration_s = outcome.duration.ToTimedelta().total_seconds()
    yield (
        f"ended     {_code_name(outcome.grpc_code)} after {duration_s:.2f} s, "
        f"{outcome.output_tokens} tokens, {outcome.attempts} attempts"
    )


def _code_name(number: int) -> str:
    names = {code.value[0]: code.name for code in grpc.StatusCode}
    return names.get(number, str(number))
