"""Serves the ledger: leases to routers, receipts to runtimes, the state of budgets to operators."""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial

import grpc
import structlog

from evenflow.policy.v1 import ledger_service_pb2 as pb
from evenflow.policy.v1 import ledger_service_pb2_grpc as pb_grpc
from services.chassis import lifecycle
from services.chassis.callers import AllowedCallers
from services.chassis.identity import peer_id
from services.chassis.logs import add_facts
from services.chassis.open_streams import OpenStreams
from services.chassis.status import ErrorTable, Status
from services.policy.core.audit import Audit, Deed
from services.policy.core.booking import InvalidRequest, RouterGone
from services.policy.core.settling import LeftOut, Report, Settled
from services.policy.core.tenants import Policy
from services.policy.inbound import ledger_messages as messages
from services.policy.inbound.budget_states import budgets_of, present, states
from services.policy.inbound.leasing import Books, Leasing, Refusals
from services.policy.served import Served

SERVICE: str = pb.DESCRIPTOR.services_by_name["LedgerService"].full_name
CALLERS: AllowedCallers = {
    f"/{SERVICE}/Lease": frozenset({"router"}),
    f"/{SERVICE}/Settle": frozenset({"runtime"}),
    f"/{SERVICE}/ListBudgets": frozenset({"operator"}),
    f"/{SERVICE}/ForgetRuntime": frozenset({"operator"}),
}

_log = structlog.get_logger(__name__)


class RuntimeNotKnown(LookupError):
    """No runtime that is waited for has this address; see how it is written."""


ERRORS: ErrorTable = {
    InvalidRequest: Status(grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID"),
    LeftOut: Status(grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID"),
    RouterGone: Status(grpc.StatusCode.FAILED_PRECONDITION, "ROUTER_GONE"),
    RuntimeNotKnown: Status(grpc.StatusCode.NOT_FOUND, "ENDPOINT_NOT_FOUND"),
}


class LedgerServicer(pb_grpc.LedgerServiceServicer):
    """Publish each new policy to it: limits follow the file, also those of open accounts."""

    def __init__(
        self,
        books: Books,
        policy: Policy,
        *,
        now_unix_s: Callable[[], float],
        heartbeat_s: float,
        audit: Audit | None = None,
    ) -> None:
        self._books = books
        self._now_unix_s = now_unix_s
        self._heartbeat_s = heartbeat_s
        self._audit = audit
        self._refusals = Refusals()
        self._streams = OpenStreams()
        self._leasing: set[Leasing] = set()
        self.publish(policy)

    def publish(self, policy: Policy) -> None:
        self._policy = policy
        self._budgets = budgets_of(policy)

    def close(self) -> None:
        """Ends all streams, so that a drain need not wait for those that have no end."""
        self._streams.close()

    async def Lease(  # type: ignore[override] # noqa: N802 - the name is the proto's; it streams by context.write
        self, request_iterator: AsyncIterator[pb.LeaseRequest], context: grpc.aio.ServicerContext
    ) -> None:
        leasing = Leasing(
            self._books,
            context.write,
            now_unix_s=self._now_unix_s,
            heartbeat_s=self._heartbeat_s,
        )
        self._leasing.add(leasing)
        try:
            async with self._streams.one(), asyncio.TaskGroup() as tasks:
                telling = tasks.create_task(leasing.tell())
                await leasing.hear(request_iterator, lambda: self._budgets, self._refusals)
                telling.cancel()
        except ExceptionGroup as failures:
            raise lifecycle.alone(failures) from None
        finally:
            self._leasing.discard(leasing)
            add_facts(router=leasing.router)

    async def Settle(  # type: ignore[override] # noqa: N802 - the name is the proto's; it streams by context.write
        self, request_iterator: AsyncIterator[pb.SettleRequest], context: grpc.aio.ServicerContext
    ) -> None:
        booked = 0
        try:
            async with self._streams.one():
                async for request in request_iterator:
                    report = messages.report(request)
                    settled = await self._books.settle(report, self._now_unix_s())
                    booked += settled.new
                    self._say_and_wake(report, settled)
                    await context.write(pb.SettleResponse(sequence=settled.booked))
        finally:
            add_facts(attempts=booked)

    async def ListBudgets(  # noqa: N802 - the name is the proto's
        self, request: pb.ListBudgetsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListBudgetsResponse:
        policy = self._policy
        found = present(policy, request.tenant, self._now_unix_s())
        tallies = await self._books.tallies(found)
        return pb.ListBudgetsResponse(budgets=states(found, tallies), currency=policy.currency)

    async def ForgetRuntime(  # noqa: N802 - the name is the proto's
        self, request: pb.ForgetRuntimeRequest, context: grpc.aio.ServicerContext
    ) -> pb.ForgetRuntimeResponse:
        endpoint = request.endpoint
        known = await self._books.journals_at(endpoint)
        await self._record(endpoint, str(peer_id(context)), known=known > 0)
        if not known:
            raise RuntimeNotKnown(f"no runtime that is waited for is at {endpoint[:100]}")
        journals = await self._books.forget_journals(endpoint)
        _log.warning("runtime.forgotten", endpoint=endpoint, journals=journals)
        return pb.ForgetRuntimeResponse(journals=journals)

    def _say_and_wake(self, report: Report, settled: Settled) -> None:
        if settled.first > 1:
            _log.warning(
                "journal.began_late", journal=report.journal, sequence=settled.first, expected=1
            )
        concerned = {each.router for each in report.attempts} if settled.new else set()
        for leasing in self._leasing:
            if leasing.router in concerned:
                leasing.news.set()

    async def _record(self, endpoint: str, actor: str, *, known: bool) -> None:
        if self._audit is not None:
            outcome = "done" if known else "ENDPOINT_NOT_FOUND"
            deed = Deed(actor=actor, action="runtime.forgotten", subject=endpoint, outcome=outcome)
            await self._audit.record(deed)


def served(servicer: LedgerServicer) -> Served:
    add = partial(pb_grpc.add_LedgerServiceServicer_to_server, servicer)
    return Served(SERVICE, CALLERS, add, ERRORS)
