"""Writes down for the audit log what was decided, before anybody hears of it.

Of each request that some rule was applied to: who, what, by which policy, the verdict; of high-risk
ones also how they ended. Never a prompt or an output. What can't be written down is counted, and
said as soon as it can be; a high-risk request may not go then.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

import structlog
from google.protobuf.timestamp_pb2 import Timestamp

from evenflow.policy.v1 import audit_service_pb2 as pb
from services.chassis.admin_calls import AdminCall
from services.router.core.demands import WorkloadClass
from services.router.core.endings import Code, Ended
from services.router.core.requests import Decision, Request
from services.router.core.verdicts import Admitted, Hit, Reason, Refused
from services.router.degradations import degradations_text, done
from services.router.inbound.asked import Asked
from services.router.inbound.judgements import Judged

_COME_BACK_S = 1.0
_LONGEST_ACTOR = 512  # what is written for each request is bounded
_LOST_ACTION = "audit.gap"
_log = structlog.get_logger(__name__)

UNAUDITED = Refused(
    Reason.AUDIT_UNAVAILABLE,
    "it must be written into the audit log, which can't be done now",
    retry_after_s=_COME_BACK_S,
    workload_class=WorkloadClass.HIGH_RISK,
)


class Spool(Protocol):
    @property
    def last(self) -> int:
        """Number of the last entry."""

    @property
    def waits(self) -> bool:
        """Whether something is not acknowledged."""

    def append(self, content: bytes) -> None:
        """The next entry. Raises OSError; then nothing was appended."""


class NoSpool:
    """Takes everything and keeps nothing: for tests and benchmarks without an audit log."""

    last = 0
    waits = False

    def append(self, content: bytes) -> None:
        self.last += 1


class Auditing:
    """`now_unix_ns`: wall time. `version`: of the policy. `stale_after_s`: how long policy may take
    to acknowledge what is in the spool."""

    def __init__(
        self,
        spool: Spool,
        *,
        now_unix_ns: Callable[[], int],
        version: Callable[[], str],
        stale_after_s: float,
    ) -> None:
        self._spool = spool
        self._now_unix_ns = now_unix_ns
        self._version = version
        self._stale_after_s = stale_after_s
        self._since_s: float | None = None  # of the oldest that waits, or policy's last word
        self._lost = 0

    def decided(self, question: Asked, judged: Judged, decision: Decision, now_s: float) -> bool:
        """False: it must be written down and can't be, so it may not go."""
        verdict = judged.verdict
        if verdict is None:
            return True  # the router itself answers, the same to everybody
        goes = isinstance(verdict, Admitted | Hit)
        must = goes and decision.workload_class is WorkloadClass.HIGH_RISK
        if must and self._is_stale(now_s):
            self._write(
                _decision(question, judged, decision, Reason.AUDIT_UNAVAILABLE.value), now_s
            )
            return False
        refusal = decision.refusal.value if decision.refusal else ""
        return self._write(_decision(question, judged, decision, refusal), now_s) or not must

    def left(self, question: Asked, judged: Judged, decision: Decision, now_s: float) -> None:
        """Its caller did not wait for a verdict."""
        entry = _decision(question, judged, decision, "CANCELLED")
        entry.action = "request.left"
        self._write(entry, now_s)

    def ended(self, request: Request, end: Ended, now_s: float) -> None:
        decision = request.decision
        if decision is not None and decision.workload_class is WorkloadClass.HIGH_RISK:
            self._write(_end(decision, end), now_s)

    def called(self, call: AdminCall, now_s: float) -> None:
        entry = pb.SpooledEntry(
            actor=call.caller, action="rpc.called", subject=call.method, outcome=call.outcome
        )
        self._write(entry, now_s)

    def heard(self, now_s: float) -> None:
        """Policy has taken some."""
        self._since_s = now_s if self._spool.waits else None

    def _is_stale(self, now_s: float) -> bool:
        return self._since_s is not None and now_s - self._since_s > self._stale_after_s

    def _write(self, entry: pb.SpooledEntry, now_s: float) -> bool:
        try:
            if self._lost:
                self._append(_gap(self._lost))
                _log.warning("audit.written_again", lost=self._lost)
                self._lost = 0
            self._append(entry)
        except OSError as error:
            self._lost += 1
            if self._lost == 1:
                _log.error("audit.losing", problem=str(error))
            return False
        if self._since_s is None:
            self._since_s = now_s
        return True

    def _append(self, entry: pb.SpooledEntry) -> None:
        entry.sequence = self._spool.last + 1
        entry.policy_version = self._version()
        seconds, nanos = divmod(self._now_unix_ns(), 1_000_000_000)
        entry.at.CopyFrom(Timestamp(seconds=seconds, nanos=nanos))
        self._spool.append(pb.AppendRequest(entries=(entry,)).SerializeToString())


def no_auditing() -> Auditing:
    return Auditing(
        NoSpool(), now_unix_ns=lambda: 0, version=lambda: "", stale_after_s=float("inf")
    )


_ACTIONS: Mapping[type[object], str] = {
    Admitted: "request.admitted",
    Hit: "request.hit",
    Refused: "request.refused",
}


def _decision(question: Asked, judged: Judged, decision: Decision, refusal: str) -> pb.SpooledEntry:
    demand, caller = judged.demand, judged.caller
    workload_class = decision.workload_class
    request = pb.AuditedRequest(
        workload=decision.workload,
        method=decision.method,
        model=decision.model,
        answering_model=decision.answering,
        workload_class=workload_class.value if workload_class else "",
        output_tokens=decision.output_tokens,
        degradations=degradations_text(decision.degraded.taken),
        trace_id=decision.trace_id,
    )
    if demand is not None:
        request.prompt_tokens = demand.prompt.tokens
        request.prompt_estimated = not demand.prompt.exact
        if demand.workload_class is not None:
            request.asked_class = demand.workload_class.value
        if demand.output is not None:
            request.asked_output_tokens = demand.output.at_most_tokens or 0
    actor = question.spiffe_id or ""
    if question.spiffe_id is None and caller is not None:
        actor = f"key:{decision.tenant}/{caller.key_id}"
    return pb.SpooledEntry(
        actor=actor[:_LONGEST_ACTOR],
        action="request.refused" if refusal else _ACTIONS[type(judged.verdict)],
        subject=decision.request_id,
        tenant=decision.tenant,
        outcome=refusal or "done",
        request=request,
    )


def _end(decision: Decision, end: Ended) -> pb.SpooledEntry:
    usage = end.usage
    return pb.SpooledEntry(
        actor="gateway",
        action="request.ended",
        subject=decision.request_id,
        tenant=decision.tenant,
        outcome=(decision.refusal.value if decision.refusal else end.reason) or "done",
        request=pb.AuditedRequest(
            workload=decision.workload,
            model=decision.model,
            answering_model=decision.answering,
            workload_class=WorkloadClass.HIGH_RISK.value,
            prompt_tokens=usage.prompt_tokens if usage else 0,
            cached_prompt_tokens=usage.cached_prompt_tokens if usage else 0,
            output_tokens=usage.output_tokens if usage else 0,
            degradations=degradations_text(done(decision, end)),
            trace_id=decision.trace_id,
            endpoint=end.endpoint,
            code=Code(end.grpc_code).name,
        ),
    )


def _gap(lost: int) -> pb.SpooledEntry:
    facts = {"missing": str(lost)}
    return pb.SpooledEntry(
        actor="router", action=_LOST_ACTION, subject="router", outcome="done", facts=facts
    )
