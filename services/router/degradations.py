"""Degradations on the wire: what runtimes are told to do, and what they say was done."""

from collections.abc import Iterable, Sequence

from evenflow.inference.v1 import inference_service_pb2 as pb
from services.router.core.endings import Ended
from services.router.core.requests import Decision
from services.router.core.rungs import Degradation
from services.router.core.verdicts import Admitted

DEGRADATIONS_HEADER = "x-evenflow-degradations"
_MOST = 16
_LONGEST = 64  # of a name


def orders(admitted: Admitted, *, asked_model: str) -> Iterable[tuple[str, str]]:
    """Headers for the runtime that is to answer a degraded request."""
    degraded = admitted.degraded
    yield DEGRADATIONS_HEADER, degradations_text(degraded.taken)
    if admitted.model != asked_model:
        yield "x-evenflow-model", admitted.model
    if degraded.caps.output_tokens:
        yield "x-evenflow-output-cap", str(degraded.caps.output_tokens)
    if degraded.caps.prompt_tokens:
        yield "x-evenflow-context-cap", str(degraded.caps.prompt_tokens)


def degradations_text(taken: Iterable[Degradation]) -> str:
    return ",".join(map(str, taken))


def degradations_said(text: str) -> tuple[Degradation, ...]:
    """Of an answer's header or trailer. What is no degradation is left out."""
    if not text:
        return ()
    parts = [part.partition("=") for part in text.split(",", _MOST)[:_MOST]]
    return tuple(
        Degradation(rung[:_LONGEST], reason[:_LONGEST]) for rung, _, reason in parts if reason
    )


def done(decision: Decision | None, ended: Ended | None) -> Sequence[Degradation]:
    """What became of a request: what its answer says, where it was let go and has ended."""
    if decision is not None and (ended is None or decision.refusal is not None):
        return decision.degraded.taken
    return ended.degradations if ended is not None else ()


def messages(degradations: Iterable[Degradation]) -> list[pb.Degradation]:
    return [pb.Degradation(rung=each.rung, reason=each.reason) for each in degradations]
