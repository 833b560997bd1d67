"""A router and the ledger, over a real connection: both always know the same of what it holds."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc
import pytest

from evenflow.policy.v1 import ledger_service_pb2 as pb
from services.chassis.identity import TlsFiles
from services.policy.core.ledger import Account
from services.router.core.budgets import A_TOKEN, Charge
from services.router.core.spending import Lacking, Reservation, reserved
from services.router.inbound.budgeting import Budgeting
from services.router.outbound.leases import GrpcLedger, LeaseFollower
from tests.unit.policy.ledger.test_ledger_servicer import DAY, NOW, Mesh, asks, mesh, report

OURS = (DAY.budget, DAY.window_start_unix_s)
THEIRS = Account(*OURS)
PATIENCE_S = 10.0
LOOK_EVERY_S = 0.01


class Router:
    """Follows the ledger for as long as `following`."""

    def __init__(self, ledger: Mesh) -> None:
        self.ledger = ledger
        self.tls: TlsFiles = ledger.identities.service("router")
        self.budgeting = Budgeting("r1", lambda: float(NOW))
        clock = asyncio.get_running_loop().time
        self.follower = LeaseFollower(self.budgeting, clock)
        self.connected = 0

    @property
    def there(self) -> int:
        return self.budgeting.purse.there(OURS)

    def sets_aside(self, units: int, request_id: str = "a") -> Reservation | Lacking:
        charge = Charge(OURS, units, A_TOKEN, hard=True)
        now_s = asyncio.get_running_loop().time()
        outcome = reserved(self.budgeting.purse, request_id, [charge], now_s=now_s)
        self.budgeting.stirred()
        return outcome

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        async def follow() -> None:
            while True:
                with suppress(grpc.aio.AioRpcError):
                    await self.follower.follow(GrpcLedger(self.ledger.where, self.tls))
                await asyncio.sleep(LOOK_EVERY_S)

        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(follow())
            try:
                yield
            finally:
                task.cancel()

    async def held(self) -> int:
        """As the ledger has it, of all routers."""
        tally = (await self.ledger.servicer._books.tallies([THEIRS]))[THEIRS]  # noqa: SLF001 - what it keeps is to be seen
        return tally.held


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110 - what is waited for is another's to do
            await asyncio.sleep(LOOK_EVERY_S)


@asynccontextmanager
async def routed(folder: Path) -> AsyncIterator[Router]:
    async with mesh(folder) as ledger:
        router = Router(ledger)
        async with router.following():
            yield router


async def agreed(router: Router) -> None:
    """Both know the same of what it holds, once no word is under way."""
    async with asyncio.timeout(PATIENCE_S):
        while router.budgeting.purse.held(OURS) != await router.held():  # noqa: ASYNC110 - likewise
            await asyncio.sleep(LOOK_EVERY_S)


async def settle(ledger: Mesh, *used: int, begin: int = 1) -> None:
    async with ledger.calls("runtime") as calls:
        call = calls.Settle(timeout=PATIENCE_S)
        await call.write(report(*used, begin=begin))
        assert (await call.read()).sequence
        call.cancel()


def test_what_a_request_lacks_is_granted_within_moments(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with routed(tmp_path) as router:
            assert isinstance(router.sets_aside(100), Lacking)
            await until(lambda: router.there >= 200)

            assert isinstance(router.sets_aside(100), Reservation)
            await agreed(router)

    asyncio.run(scenario())


def test_a_budget_that_is_spent_is_dry(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with routed(tmp_path) as router:
            router.sets_aside(5_000)
            await until(lambda: router.budgeting.purse.is_dry(OURS, 0.0))

            assert router.there == 1_000

    asyncio.run(scenario())


def test_what_runtimes_report_comes_back_to_its_router(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with routed(tmp_path) as router:
            router.sets_aside(100)
            await until(lambda: router.there >= 200)
            outcome = router.sets_aside(100)
            assert isinstance(outcome, Reservation)
            router.budgeting.purse.ended("a", sent=1, unix_s=NOW)
            assert router.budgeting.purse.under_way() == 1

            await settle(router.ledger, 30)
            await until(lambda: router.budgeting.purse.under_way() == 0)

            await agreed(router)

    asyncio.run(scenario())


def test_books_agree_after_policy_was_started_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with routed(tmp_path) as router:
            router.sets_aside(100)
            await until(lambda: router.there >= 200)
            assert isinstance(router.sets_aside(100), Reservation)
            await router.ledger.stop()
            assert isinstance(router.sets_aside(400, "b"), Lacking)
            await router.ledger.start()
            await settle(router.ledger, 30)

            await until(lambda: router.there >= 400)
            router.budgeting.purse.ended("a", sent=1, unix_s=NOW)
            await until(lambda: router.budgeting.purse.under_way() == 0)
            await agreed(router)

    asyncio.run(scenario())


def test_what_was_heard_is_not_heard_again_after_a_restart(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with routed(tmp_path) as router:
            router.sets_aside(100)
            await until(lambda: router.there >= 200)
            assert isinstance(router.sets_aside(100), Reservation)
            router.budgeting.purse.ended("a", sent=1, unix_s=NOW)
            await settle(router.ledger, 30)
            await until(lambda: router.budgeting.purse.under_way() == 0)
            await router.ledger.stop()
            await router.ledger.start()
            router.sets_aside(5_000, "b")  # whose answer comes by the new stream
            await until(lambda: router.budgeting.purse.is_dry(OURS, 0.0))

            await agreed(router)

    asyncio.run(scenario())


class OneAnswer:
    """A Ledger whose streams answer one request and end with the next, which they keep."""

    def __init__(self) -> None:
        self.asked: list[pb.LeaseRequest] = []
        self.first: AsyncIterator[pb.LeaseRequest] | None = None

    async def lease(
        self, requests: AsyncIterator[pb.LeaseRequest]
    ) -> AsyncGenerator[pb.LeaseResponse, None]:
        self.first = self.first or requests
        for _ in range(2):
            self.asked.append(
                pb.LeaseRequest.FromString((await anext(requests)).SerializeToString())
            )
            if len(self.asked) % 2:
                yield pb.LeaseResponse(sequence=self.asked[-1].sequence)


def test_a_request_without_an_answer_is_sent_again_as_it_was() -> None:
    async def scenario() -> list[pb.LeaseRequest]:
        ledger, budgeting = OneAnswer(), Budgeting("r1", lambda: float(NOW))
        follower = LeaseFollower(budgeting, asyncio.get_running_loop().time)
        charge = Charge(OURS, 100, A_TOKEN, hard=True)
        reserved(budgeting.purse, "a", [charge], now_s=asyncio.get_running_loop().time())
        async with asyncio.timeout(PATIENCE_S):
            await follower.follow(ledger)
            await follower.follow(ledger)
        return ledger.asked

    hello, wanted, again, _ = asyncio.run(scenario())

    assert [each.sequence for each in (hello, wanted, again)] == [1, 2, 2]
    assert wanted.wants
    assert again == wanted


def test_a_stream_that_is_over_says_nothing_more() -> None:
    """gRPC may ask for more of it: a request that nobody sends would break the numbering."""

    async def scenario() -> None:
        ledger, budgeting = OneAnswer(), Budgeting("r1", lambda: float(NOW))
        follower = LeaseFollower(budgeting, asyncio.get_running_loop().time)
        charge = Charge(OURS, 100, A_TOKEN, hard=True)
        reserved(budgeting.purse, "a", [charge], now_s=asyncio.get_running_loop().time())
        async with asyncio.timeout(PATIENCE_S):
            await follower.follow(ledger)
            assert ledger.first is not None
            with pytest.raises(StopAsyncIteration):
                await anext(ledger.first)

    asyncio.run(scenario())


def test_a_router_that_ends_holds_nothing_any_more(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with routed(tmp_path) as router:
            router.sets_aside(100)
            await until(lambda: router.there >= 200)

            await router.follower.give_all_back()

            assert await router.held() == 0
            assert router.there == 0

    asyncio.run(scenario())


def test_a_router_that_was_given_up_begins_anew_with_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with mesh(tmp_path) as ledger:
            router = Router(ledger)
            router.follower._sequence = 7  # noqa: SLF001 - policy knows nothing of the seven before
            router.sets_aside(100)
            async with router.following():
                await until(lambda: router.budgeting.router != "r1")
                assert isinstance(router.sets_aside(100), Lacking)
                await until(lambda: router.there >= 200)

    asyncio.run(scenario())


@pytest.mark.parametrize("sent_again", [1, 3])
def test_a_request_that_is_sent_again_happens_once(tmp_path: Path, sent_again: int) -> None:
    async def scenario() -> tuple[list[int], int]:
        async with mesh(tmp_path) as ledger:
            granted = []
            for _ in range(1 + sent_again):
                async with ledger.calls("router") as calls:
                    call = calls.Lease(timeout=PATIENCE_S)
                    await call.write(asks(1, 100))
                    answer: pb.LeaseResponse = await call.read()
                    while not answer.sequence:
                        answer = await call.read()
                    granted.append(answer.grants[0].units)
                    call.cancel()
            return granted, await Router(ledger).held()

    granted, held = asyncio.run(scenario())

    assert granted == [100] * (1 + sent_again)
    assert held == 100
