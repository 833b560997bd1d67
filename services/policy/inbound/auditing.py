"""Takes the audit entries of other services, and shows operators the log."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Protocol

import grpc

from evenflow.policy.v1 import audit_service_pb2 as pb
from evenflow.policy.v1 import audit_service_pb2_grpc as pb_grpc
from services.chassis.admin_calls import AdminCall
from services.chassis.callers import AllowedCallers
from services.chassis.status import ErrorTable, Status
from services.policy.core.audit import AuditUnavailable, Deed, Reported, Spooled, Wanted
from services.policy.core.tenants import Policy
from services.policy.served import Served

SERVICE: str = pb.DESCRIPTOR.services_by_name["AuditService"].full_name
CALLERS: AllowedCallers = {
    f"/{SERVICE}/": frozenset({"operator"}),
    f"/{SERVICE}/Append": frozenset({"router"}),
}
_SPOOL = re.compile(r"[A-Za-z0-9-]{1,63}")
_LONGEST = 2048  # of a text in an entry


class InvalidEntry(ValueError):
    """A field can't be meant; `field` names it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


ERRORS: ErrorTable = {InvalidEntry: Status(grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")}


class Log(Protocol):
    async def append(self, spooled: Spooled) -> None:
        """Durable when it returns, each entry once. Raises AuditUnavailable."""

    def position(self, spool: str) -> int:
        """The last entry of it that is in the log."""

    def read(self, wanted: Wanted) -> Iterator[Sequence[bytes]]:
        """Lines that are in the log by now. Each step blocks. Raises OSError."""


class AuditServicer(pb_grpc.AuditServiceServicer):
    def __init__(self, log: Log, public_key: bytes, key_id: str) -> None:
        self._log = log
        self._key = pb.GetAuditKeyResponse(public_key=public_key, id=key_id)
        self._reading: set[asyncio.Task[None]] = set()

    def close(self) -> None:
        """Ends what routers send, so that a drain need not wait for streams that have no end."""
        for each in self._reading:
            each.cancel()

    async def Append(  # noqa: N802 - the name is the proto's
        self, request_iterator: AsyncIterator[pb.AppendRequest], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.AppendResponse]:
        task = asyncio.current_task()
        assert task is not None, "a call is a task"
        self._reading.add(task)
        try:
            async for request in request_iterator:
                spooled = spooled_of(request)
                await self._log.append(spooled)
                yield pb.AppendResponse(sequence=self._log.position(spooled.spool))
        finally:
            self._reading.discard(task)

    async def ReadAudit(  # noqa: N802 - the name is the proto's
        self, request: pb.ReadAuditRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.ReadAuditResponse]:
        since = request.since.ToMicroseconds() if request.HasField("since") else None
        wanted = Wanted(
            from_number=request.from_number,
            since_unix_us=since,
            tenant=request.tenant,
            action=request.action,
            last=request.last,
        )
        found = self._log.read(wanted)
        while (lines := await asyncio.to_thread(_next, found)) is not None:
            yield pb.ReadAuditResponse(lines=lines)

    async def GetAuditKey(  # noqa: N802 - the name is the proto's
        self, request: pb.GetAuditKeyRequest, context: grpc.aio.ServicerContext
    ) -> pb.GetAuditKeyResponse:
        return self._key


def served(servicer: AuditServicer) -> Served:
    add = partial(pb_grpc.add_AuditServiceServicer_to_server, servicer)
    return Served(SERVICE, CALLERS, add, ERRORS)


def called(call: AdminCall) -> Deed:
    return Deed(actor=call.caller, action="rpc.called", subject=call.method, outcome=call.outcome)


def loaded(policy: Policy) -> Deed:
    facts = {"tenants": str(len(policy.tenants))}
    return Deed(actor="policy", action="policy.loaded", subject=policy.version, facts=facts)


def refused(problems: str) -> Deed:
    """What they are may quote a key that somebody wrote into the wrong field."""
    facts = {"problems": str(len(problems.splitlines()))}
    return Deed(
        actor="policy",
        action="policy.refused",
        subject="file",
        outcome="INVALID_POLICY",
        facts=facts,
    )


def spooled_of(request: pb.AppendRequest) -> Spooled:
    """Raises InvalidEntry."""
    if not _SPOOL.fullmatch(request.spool):
        raise InvalidEntry("spool", "must be 1 to 63 letters, digits and '-'")
    entries = []
    before = 0
    for at, each in enumerate(request.entries):
        if each.sequence <= before:
            raise InvalidEntry(f"entries[{at}].sequence", f"must be above {before}")
        before = each.sequence
        entries.append(_reported(each))
    return Spooled(request.spool, entries)


def _reported(entry: pb.SpooledEntry) -> Reported:
    is_request = entry.HasField("request")
    deed = Deed(
        actor=entry.actor[:_LONGEST],
        action=entry.action[:_LONGEST],
        subject=entry.subject[:_LONGEST],
        outcome=entry.outcome[:_LONGEST],
        tenant=entry.tenant[:_LONGEST],
        facts=_facts(entry.request) if is_request else _bounded(entry.facts),
    )
    at_us = entry.at.seconds * 1_000_000 + entry.at.nanos // 1000
    return Reported(entry.sequence, at_us, entry.policy_version[:_LONGEST], deed)


def _bounded(facts: Mapping[str, str]) -> Mapping[str, str]:
    return {name[:_LONGEST]: value[:_LONGEST] for name, value in facts.items()}


_TEXTS: Mapping[str, Callable[[pb.AuditedRequest], str]] = {
    "workload": lambda each: each.workload,
    "method": lambda each: each.method,
    "model": lambda each: each.model,
    "answering_model": lambda each: each.answering_model,
    "class": lambda each: each.workload_class,
    "asked_class": lambda each: each.asked_class,
    "degradations": lambda each: each.degradations,
    "trace_id": lambda each: each.trace_id,
    "endpoint": lambda each: each.endpoint,
    "code": lambda each: each.code,
}
_NUMBERS: Mapping[str, Callable[[pb.AuditedRequest], int]] = {
    "prompt_tokens": lambda each: each.prompt_tokens,
    "prompt_estimated": lambda each: each.prompt_estimated,
    "asked_output_tokens": lambda each: each.asked_output_tokens,
    "output_tokens": lambda each: each.output_tokens,
    "cached_prompt_tokens": lambda each: each.cached_prompt_tokens,
}


def _facts(request: pb.AuditedRequest) -> Mapping[str, str]:
    """What is empty or zero is left out."""
    texts = {name: read(request)[:_LONGEST] for name, read in _TEXTS.items()}
    numbers = {name: int(read(request)) for name, read in _NUMBERS.items()}
    return {
        **{name: text for name, text in texts.items() if text},
        **{name: str(number) for name, number in numbers.items() if number},
    }


def _next(found: Iterator[Sequence[bytes]]) -> Sequence[bytes] | None:
    try:
        return next(found, None)
    except OSError as error:
        raise AuditUnavailable("the audit log can't be read") from error
