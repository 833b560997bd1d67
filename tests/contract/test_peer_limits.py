"""Two routers tell each other over gRPC what they let go, and hold a tenant to one limit."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc

from evenflow.router.v1 import peer_service_pb2_grpc as pb_grpc
from services.chassis.environ import Address
from services.chassis.identity import TlsFiles
from services.chassis.server import grpc_server
from services.router.core.demands import Output
from services.router.core.eligibility import KvCache
from services.router.core.limit_words import LimitPeer
from services.router.core.limits import Limiting
from services.router.core.tenants import Limits
from services.router.core.verdicts import Reason
from services.router.core.wishes import wish_of
from services.router.inbound import peers
from services.router.outbound.peers import GrpcRouter, PeerFollower
from tests.identities import Identities
from tests.unit.router.values import demand, ended, tenant

PATIENCE_S = 10.0
LIMITS = Limits(requests_per_minute=10, tokens_per_minute=1000, concurrent_requests=4, kv_share=0.5)
KV = KvCache(blocks=100, block_tokens=16)


class Router:
    def __init__(self, name: str, limits: Limits = LIMITS) -> None:
        self.name = name
        self.limits = limits
        self.limiting = Limiting()
        self.limiting.limits_of = lambda _: self.limits
        self.heard = LimitPeer(self.limiting)
        self.follower = PeerFollower(name, lambda _: None, self.heard)
        self._number = 0

    def refused(self, tokens: int = 100) -> Reason | None:
        now_s = asyncio.get_running_loop().time()
        whose = tenant(limits=self.limits)
        wish = wish_of(demand(output=Output(tokens - 10, "max_tokens")), whose, KV)
        refused = self.limiting.too_often(whose, now_s) or self.limiting.refused(wish, now_s)
        if refused is not None:
            return refused.reason
        self._number += 1
        self.limiting.let_go(f"{self.name}{self._number}", whose, wish, now_s)
        return None

    def end(self, number: int) -> None:
        now_s = asyncio.get_running_loop().time()
        self.limiting.ended(f"{self.name}{number}", ended(), now_s)

    async def until(self, knows: Callable[["Router"], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not knows(self):  # noqa: ASYNC110 - nobody tells when a word has come
                await asyncio.sleep(0.01)

    def running_elsewhere(self) -> int:
        account = self.limiting.accounts.get("acme")
        return account.running_elsewhere if account else 0

    def requests(self) -> int:
        account = self.limiting.accounts.get("acme")
        return account.requests.total if account else 0


@asynccontextmanager
async def listening(router: Router, tls: TlsFiles) -> AsyncIterator[str]:
    servicer = peers.PeerServicer(router.name, lambda: iter(()), router.limiting)
    server = grpc_server(errors={}, callers=peers.CALLERS, tls=tls, services=[peers.SERVICE])
    pb_grpc.add_PeerServiceServicer_to_server(servicer, server.grpc)
    port = server.listen(Address("127.0.0.1:0"), tls)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        servicer.close()
        await server.grpc.stop(None)


@asynccontextmanager
async def following(router: Router, address: str, tls: TlsFiles) -> AsyncIterator[None]:
    async def follow() -> None:
        with suppress(grpc.aio.AioRpcError):
            await router.follower.follow(GrpcRouter(address, tls))

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(follow())
        try:
            yield
        finally:
            task.cancel()


@asynccontextmanager
async def two(folder: Path, *limits: Limits) -> AsyncIterator[tuple[Router, Router]]:
    """That hear each other."""
    tls = Identities(folder).service("router")
    first, second = Router("first", *limits), Router("second", *limits)
    async with (
        listening(first, tls) as at_first,
        listening(second, tls) as at_second,
        following(first, at_second, tls),
        following(second, at_first, tls),
    ):
        for each in (first, second):
            await each.until(lambda router: router.follower.is_heard)
        yield first, second


def test_what_one_let_go_counts_at_the_other(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with two(tmp_path) as (first, second):
            assert [first.refused() for _ in range(4)] == [None] * 4
            await second.until(lambda router: router.running_elsewhere() == 4)

            assert second.refused() is Reason.CONCURRENCY_LIMIT
            first.end(1)
            await second.until(lambda router: router.running_elsewhere() == 3)
            assert second.refused() is None

    asyncio.run(scenario())


def test_tokens_come_back_as_they_were_used_and_blocks_are_held_together(tmp_path: Path) -> None:
    limits = Limits(tokens_per_minute=1000, kv_share=0.5)

    async def scenario() -> None:
        async with two(tmp_path, limits) as (first, second):
            assert first.refused(600) is None
            await second.until(lambda router: router.running_elsewhere() == 1)
            assert second.refused(500) is Reason.TOKEN_RATE_LIMIT
            assert second.refused(300) is Reason.KV_LIMIT

            first.end(1)  # 30 tokens
            await second.until(lambda router: router.running_elsewhere() == 0)

            assert second.refused(790) is None

    asyncio.run(scenario())


def test_what_goes_before_they_hear_of_each_other_is_all_that_is_too_much(tmp_path: Path) -> None:
    """Both are asked for more than the limit, all the time."""
    limits = Limits(requests_per_minute=10)

    async def scenario() -> int:
        async with two(tmp_path, limits) as (first, second):
            let_go = [0, 0]
            for _ in range(50):
                for at, router in enumerate((first, second)):
                    let_go[at] += router.refused() is None
                await asyncio.sleep(0.01)
            assert let_go[0] <= 10
            assert let_go[1] <= 10
            return sum(let_go)

    assert 10 <= asyncio.run(scenario()) <= 20


def test_a_router_that_was_started_again_hears_what_it_let_go_itself(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with two(tmp_path) as (first, second):
            assert [first.refused(20) for _ in range(4)] == [None] * 4
            await second.until(lambda router: router.requests() == 4)
            tls = Identities(tmp_path / "again").service("router")
            again = Router("first, again")
            async with listening(second, tls) as address, following(again, address, tls):
                await again.until(lambda router: router.requests() == 4)

    asyncio.run(scenario())


def test_what_is_under_way_at_a_router_that_went_away_is_forgotten_later(tmp_path: Path) -> None:
    async def scenario() -> None:
        tls = Identities(tmp_path).service("router")
        first, second = Router("first"), Router("second")
        async with listening(first, tls) as address, following(second, address, tls):
            assert first.refused() is None
            await second.until(lambda router: router.running_elsewhere() == 1)
        clock = asyncio.get_running_loop().time

        second.heard.sweep(clock() + 5.0)
        assert second.running_elsewhere() == 1
        second.heard.sweep(clock() + 11.0)
        assert second.running_elsewhere() == 0

    asyncio.run(scenario())
