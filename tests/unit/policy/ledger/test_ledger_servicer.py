"""What routers, runtimes and operators see of the ledger, over real mTLS connections."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from structlog.testing import capture_logs

from evenflow.policy.v1 import ledger_service_pb2 as pb
from evenflow.policy.v1.ledger_service_pb2_grpc import LedgerServiceStub
from services.chassis.environ import address
from services.chassis.identity import channel
from services.policy.core.audit import Deed
from services.policy.core.tenants import Budget, Policy, Unit, Window
from services.policy.inbound import ledger
from services.policy.inbound.ledger import LedgerServicer
from services.policy.main import build_server
from services.policy.outbound.books import Books
from services.policy.outbound.database import Database
from tests.identities import Identities
from tests.unit.policy.policies import tenant

NOW = 1_800_000_000
DAILY = Budget(id="daily", unit=Unit.TOKENS, window=Window.DAY, limit=1_000)
POLICY = Policy("v1", [replace(tenant("acme"), budgets=(DAILY,)), tenant("globex")], (), "USD")
DAY = pb.Account(budget="acme/daily", window_start_unix_s=1_799_971_200)
READ_S = 5.0


class Recorded:
    """An Audit."""

    def __init__(self) -> None:
        self.deeds: list[Deed] = []

    async def record(self, deed: Deed) -> None:
        self.deeds.append(deed)


class Mesh:
    """A policy service that can die and come again, and its callers."""

    def __init__(self, folder: Path, heartbeat_s: float) -> None:
        self.identities = Identities(folder)
        self.audit = Recorded()
        self._url = f"sqlite:///{folder}/policy.db"
        self._heartbeat_s = heartbeat_s

    async def start(self) -> None:
        tls = self.identities.service("policy")
        self.database = Database(self._url)
        await asyncio.to_thread(self.database.migrate)
        self.servicer = LedgerServicer(
            Books(self.database),
            POLICY,
            now_unix_s=lambda: float(NOW),
            heartbeat_s=self._heartbeat_s,
            audit=self.audit,
        )
        self._server = build_server([ledger.served(self.servicer)], tls)
        self.where = f"127.0.0.1:{self._server.listen(address('127.0.0.1:0'), tls)}"
        await self._server.grpc.start()

    async def stop(self) -> None:
        await self._server.grpc.stop(None)
        self.database.close()

    @asynccontextmanager
    async def calls(self, caller: str) -> AsyncIterator[Any]:
        async with channel(self.where, self.identities.service(caller), server="policy") as made:
            yield LedgerServiceStub(made)


@asynccontextmanager
async def mesh(folder: Path, *, heartbeat_s: float = 5.0) -> AsyncIterator[Mesh]:
    made = Mesh(folder, heartbeat_s)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


def asks(sequence: int, units: int = 0, *, heard: int = 0, router: str = "r1") -> pb.LeaseRequest:
    wants = [pb.Want(account=DAY, units=units)] if units else []
    return pb.LeaseRequest(router=router, sequence=sequence, wants=wants, heard=heard)


def report(*used: int, begin: int = 1, journal: str = "j1") -> pb.SettleRequest:
    return pb.SettleRequest(
        journal=journal,
        endpoint="10.0.0.1:9101",
        told_until=Timestamp(seconds=NOW - 1),
        attempts=[
            pb.AttemptUsage(
                sequence=number,
                reservation=f"r1.{number}",
                attempt=1,
                charges=[pb.Charge(account=DAY, units=units)],
            )
            for number, units in enumerate(used, begin)
        ],
    )


async def say(call: Any, message: Any) -> Any:
    await call.write(message)
    return await heard(call)


async def heard(call: Any) -> Any:
    async with asyncio.timeout(READ_S):
        return await call.read()


async def answer(call: Any, message: pb.LeaseRequest) -> pb.LeaseResponse:
    """Past the news."""
    said: pb.LeaseResponse = await say(call, message)
    while not said.sequence:
        said = await heard(call)
    return said


async def settlements(call: Any) -> list[pb.Settlement]:
    """Of the next message that has some."""
    said: pb.LeaseResponse = await heard(call)
    while not said.settlements:
        said = await heard(call)
    return list(said.settlements)


def test_a_router_leases_and_hears_at_once_what_its_attempts_used(tmp_path: Path) -> None:
    async def scenario() -> tuple[pb.LeaseResponse, pb.SettleResponse, list[pb.Settlement]]:
        async with (
            mesh(tmp_path) as served,
            served.calls("router") as router,
            served.calls("runtime") as runtime,
        ):
            leasing, settling = router.Lease(), runtime.Settle()
            granted = await answer(leasing, asks(1, 100))
            booked = await say(settling, report(30))
            return granted, booked, await settlements(leasing)

    granted, booked, told = asyncio.run(scenario())

    assert granted == pb.LeaseResponse(sequence=1, grants=[pb.Grant(account=DAY, units=100)])
    assert booked == pb.SettleResponse(sequence=1)
    charge = pb.Charge(account=DAY, units=30)
    assert told == [pb.Settlement(number=1, reservation="r1.1", attempt=1, charges=[charge])]


def test_after_a_restart_all_goes_on_where_it_was(tmp_path: Path) -> None:
    async def scenario() -> tuple[list[pb.Grant], list[int], pb.BudgetState]:
        async with mesh(tmp_path) as served:
            async with served.calls("router") as router, served.calls("runtime") as runtime:
                await answer(router.Lease(), asks(1, 100))
                await say(runtime.Settle(), report(30, 4))
            await served.stop()
            await served.start()
            async with (
                served.calls("router") as router,
                served.calls("runtime") as runtime,
                served.calls("operator") as operator,
            ):
                leasing = router.Lease()
                again = await answer(leasing, asks(1, 100, heard=1))
                await say(runtime.Settle(), report(30, 4, 6))
                numbers = [each.number for each in await settlements(leasing)]
                if len(numbers) == 1:
                    numbers += [each.number for each in await settlements(leasing)]
                (state,) = (await operator.ListBudgets(pb.ListBudgetsRequest())).budgets
                return list(again.grants), numbers, state

    grants, numbers, state = asyncio.run(scenario())

    assert grants == [pb.Grant(account=DAY, units=100)]
    assert numbers == [2, 3]
    assert (state.spent, state.held) == (40, 60)


def test_news_come_without_any(tmp_path: Path) -> None:
    async def scenario() -> list[pb.LeaseResponse]:
        async with (
            mesh(tmp_path, heartbeat_s=0.05) as served,
            served.calls("router") as router,
            served.calls("runtime") as runtime,
        ):
            await say(runtime.Settle(), report())
            leasing = router.Lease()
            await answer(leasing, asks(1))
            return [await heard(leasing) for _ in range(2)]

    until = Timestamp(seconds=NOW - 1)
    assert asyncio.run(scenario()) == [pb.LeaseResponse(settled_until=until)] * 2


def test_a_changed_limit_counts_at_once(tmp_path: Path) -> None:
    smaller = Policy("v2", [replace(tenant("acme"), budgets=(replace(DAILY, limit=150),))])

    async def scenario() -> list[pb.Grant]:
        async with mesh(tmp_path) as served, served.calls("router") as router:
            leasing = router.Lease()
            await answer(leasing, asks(1, 100))
            served.servicer.publish(smaller)
            return list((await answer(leasing, asks(2, 100))).grants)

    assert asyncio.run(scenario()) == [pb.Grant(account=DAY, units=25, scarce=True)]


def test_unknown_budgets_and_windows_get_nothing_and_a_line(tmp_path: Path) -> None:
    wants = [
        pb.Want(account=pb.Account(budget="acme/other"), units=5),
        pb.Want(
            account=pb.Account(
                budget="acme/daily", window_start_unix_s=DAY.window_start_unix_s - 86_400
            ),
            units=5,
        ),
    ]

    async def scenario() -> list[int]:
        async with mesh(tmp_path) as served, served.calls("router") as router:
            leasing = router.Lease()
            request = pb.LeaseRequest(router="r1", sequence=1, wants=wants)
            first = await answer(leasing, request)
            await answer(leasing, asks(2, 5))
            return [each.units for each in first.grants]

    with capture_logs() as lines:
        assert asyncio.run(scenario()) == [0, 0]

    (line,) = [each for each in lines if each["event"] == "grants.refused"]
    assert (line["wants"], line["budget"], line["router"]) == (2, "acme/other", "r1")


@pytest.mark.parametrize(
    ("request_", "problem"),
    [
        (pb.LeaseRequest(sequence=1), "router must be 1 to 200 characters"),
        (pb.LeaseRequest(router="r1"), "sequence must be at least 1, got 0"),
        (
            pb.LeaseRequest(router="r1", sequence=1, wants=[pb.Want(account=DAY)]),
            "wants[0].units must be from 1",
        ),
        (
            pb.LeaseRequest(router="r1", sequence=1, returns=[pb.Return(account=DAY, units=1)] * 2),
            "returns[1].account is there twice",
        ),
    ],
)
def test_a_senseless_request_is_named(
    tmp_path: Path, request_: pb.LeaseRequest, problem: str
) -> None:
    async def scenario() -> tuple[grpc.StatusCode, str]:
        async with mesh(tmp_path) as served, served.calls("router") as router:
            leasing = router.Lease()
            await leasing.write(request_)
            return await ending_of(leasing)

    code, details = asyncio.run(scenario())

    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert problem in details


async def ending_of(call: Any) -> tuple[grpc.StatusCode, str]:
    async with asyncio.timeout(READ_S):
        return await call.code(), str(await call.details())


def test_a_router_that_the_books_do_not_know_starts_anew(tmp_path: Path) -> None:
    async def scenario() -> tuple[grpc.StatusCode, dict[str, Any]]:
        async with mesh(tmp_path) as served, served.calls("router") as router:
            leasing = router.Lease()
            await leasing.write(asks(7, 100))
            code, _ = await ending_of(leasing)
            return code, dict(await leasing.trailing_metadata())

    code, trailers = asyncio.run(scenario())

    assert (code, trailers["x-evenflow-reason"]) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "ROUTER_GONE",
    )


def test_reports_that_leave_attempts_out_are_refused(tmp_path: Path) -> None:
    async def scenario() -> tuple[grpc.StatusCode, str]:
        async with mesh(tmp_path) as served, served.calls("runtime") as runtime:
            settling = runtime.Settle()
            await say(settling, report(30))
            await settling.write(report(5, begin=3))
            return await ending_of(settling)

    assert asyncio.run(scenario()) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "attempts must go on at 2, got 3",
    )


def test_operators_see_what_is_spent_and_held_of_each_budget(tmp_path: Path) -> None:
    async def scenario() -> list[pb.ListBudgetsResponse]:
        async with (
            mesh(tmp_path) as served,
            served.calls("router") as router,
            served.calls("runtime") as runtime,
            served.calls("operator") as operator,
        ):
            await answer(router.Lease(), asks(1, 100))
            await say(runtime.Settle(), report(30))
            asked = [pb.ListBudgetsRequest(tenant=each) for each in ("", "acme", "globex")]
            return [await operator.ListBudgets(each) for each in asked]

    every, acme, globex = asyncio.run(scenario())

    (state,) = every.budgets
    assert every == acme
    assert (every.currency, len(globex.budgets)) == ("USD", 0)
    assert (state.tenant, state.budget.id, state.spent, state.held) == ("acme", "daily", 30, 70)
    assert state.window_start.seconds == DAY.window_start_unix_s
    assert state.window_end.seconds == DAY.window_start_unix_s + 86_400


def test_a_runtime_is_forgotten_by_word_of_an_operator_and_on_record(tmp_path: Path) -> None:
    async def scenario() -> tuple[pb.ForgetRuntimeResponse, grpc.StatusCode, list[Deed]]:
        async with (
            mesh(tmp_path) as served,
            served.calls("runtime") as runtime,
            served.calls("operator") as operator,
        ):
            await say(runtime.Settle(), report())
            asked = pb.ForgetRuntimeRequest(endpoint="10.0.0.1:9101")
            said = await operator.ForgetRuntime(asked)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await operator.ForgetRuntime(asked)
            return said, caught.value.code(), served.audit.deeds

    said, code, deeds = asyncio.run(scenario())

    assert (said.journals, code) == (1, grpc.StatusCode.NOT_FOUND)
    assert [(each.action, each.subject, each.outcome) for each in deeds] == [
        ("runtime.forgotten", "10.0.0.1:9101", "done"),
        ("runtime.forgotten", "10.0.0.1:9101", "ENDPOINT_NOT_FOUND"),
    ]
    assert deeds[0].actor == "spiffe://evenflow.local/service/operator"


@pytest.mark.parametrize(
    ("caller", "rpc"),
    [
        ("runtime", "Lease"),
        ("operator", "Lease"),
        ("router", "Settle"),
        ("gateway", "Settle"),
        ("router", "ListBudgets"),
        ("runtime", "ForgetRuntime"),
    ],
)
def test_nobody_else_may(tmp_path: Path, caller: str, rpc: str) -> None:
    requests = {"ListBudgets": pb.ListBudgetsRequest(), "ForgetRuntime": pb.ForgetRuntimeRequest()}

    async def scenario() -> grpc.StatusCode:
        async with mesh(tmp_path) as served, served.calls(caller) as calls:
            method = getattr(calls, rpc)
            call = method(requests[rpc]) if rpc in requests else method()
            return (await ending_of(call))[0]

    assert asyncio.run(scenario()) is grpc.StatusCode.PERMISSION_DENIED


def test_a_drain_ends_every_stream_in_good_order(tmp_path: Path) -> None:
    async def scenario() -> list[grpc.StatusCode]:
        async with (
            mesh(tmp_path) as served,
            served.calls("router") as router,
            served.calls("runtime") as runtime,
        ):
            leasing, settling = router.Lease(), runtime.Settle()
            await answer(leasing, asks(1))
            await say(settling, report())
            served.servicer.close()
            for each in (leasing, settling):
                while await heard(each):  # EOF is false
                    pass
            return [await each.code() for each in (leasing, settling)]

    assert asyncio.run(scenario()) == [grpc.StatusCode.OK] * 2
