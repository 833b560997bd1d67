"""What every OtherRouter must do for a router. The fake and the gRPC adapter pass the same tests;
the gRPC one stands on the real servicer where that can say what is needed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

import grpc
import pytest

from evenflow.router.v1 import peer_service_pb2 as pb
from evenflow.router.v1 import peer_service_pb2_grpc as pb_grpc
from services.chassis.environ import Address
from services.chassis.identity import TlsFiles
from services.chassis.server import grpc_server
from services.router.core.bands import Band
from services.router.core.exchange import Account, Change, PeerWord, Queues
from services.router.core.fairness import Turns
from services.router.core.lanes import Lane
from services.router.core.limit_words import LimitPeer, Minute, Told
from services.router.core.limits import Limiting, Taken
from services.router.inbound import peers
from services.router.outbound.peers import GrpcRouter, OtherRouter, PeerFollower
from tests.fakes.other_router import FakeRouter
from tests.identities import Identities
from tests.serving import served
from tests.unit.router.values import SMALL

PATIENCE_S = 10.0
ACME = Account(SMALL, Band.INTERACTIVE, "acme", 10.0, waits=True)
GLOBEX = Account(Lane("small", "vault"), Band.BATCH, "globex", 5.0, waits=False)
TOOK = Told("acme", Lane("small", "vault"), Taken(requests=3, tokens=900, running=1, blocks=20))
MINUTE = Minute("acme", (1, 0, 0, 0, 0, 2), (300, 0, 0, 0, 0, 600))


class Servicer(pb_grpc.PeerServiceServicer):
    """Puts a FakeRouter behind a real socket."""

    def __init__(self, router: FakeRouter) -> None:
        self._router = router

    async def WatchServed(  # noqa: N802 - the name is the proto's
        self, request: pb.WatchServedRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.WatchServedResponse]:
        async for word in self._router.words():
            yield peers.encoded(word)


class Connect(Protocol):
    def __call__(self, router: FakeRouter) -> AbstractAsyncContextManager[OtherRouter]: ...


@pytest.fixture(params=["fake", "grpc"])
def connect(request: pytest.FixtureRequest, identities: Identities) -> Connect:
    @asynccontextmanager
    async def in_memory(router: FakeRouter) -> AsyncIterator[OtherRouter]:
        yield router

    @asynccontextmanager
    async def over_grpc(router: FakeRouter) -> AsyncIterator[OtherRouter]:
        register = partial(pb_grpc.add_PeerServiceServicer_to_server, Servicer(router))
        async with served(register, identities.service("router")) as address:
            yield GrpcRouter(address, identities.service("router"))

    return in_memory if request.param == "fake" else over_grpc


def followed(connect: Connect, *words: PeerWord, own_id: str = "ours") -> list[list[Change]]:
    """What is passed on for these words and the stream's end."""
    passed_on: list[list[Change]] = []

    async def scenario() -> None:
        router = FakeRouter(*words)
        router.stop()
        async with connect(router) as connected, asyncio.timeout(PATIENCE_S):
            follower = PeerFollower(own_id, passed_on.append, LimitPeer(Limiting()))
            await follower.follow(connected)

    asyncio.run(scenario())
    return passed_on


def test_words_arrive_as_they_were_sent(connect: Connect) -> None:
    sent = (PeerWord("first", (ACME, GLOBEX), (TOOK,), (MINUTE,)), PeerWord("first", ()))

    async def scenario() -> None:
        router = FakeRouter(*sent)
        router.stop()
        async with connect(router) as connected, asyncio.timeout(PATIENCE_S):
            assert [word async for word in connected.words()] == list(sent)

    asyncio.run(scenario())


def test_what_changed_is_passed_on_and_in_the_end_nobody_waits_there(connect: Connect) -> None:
    later = Account(SMALL, Band.INTERACTIVE, "acme", 17.0, waits=True)

    first, second, last = followed(connect, PeerWord("a", (ACME,)), PeerWord("a", (later,)))

    assert first == [Change(SMALL, Band.INTERACTIVE, "acme", 0.0, 1)]
    assert second == [Change(SMALL, Band.INTERACTIVE, "acme", 7.0, 0)]
    assert last == [Change(SMALL, Band.INTERACTIVE, "acme", 0.0, -1)]


def test_a_router_among_its_own_peers_does_not_hear_itself(connect: Connect) -> None:
    assert followed(connect, PeerWord("ours", (ACME,)), own_id="ours") == [[]]


def test_a_router_that_is_not_there_is_lost(identities: Identities) -> None:
    async def scenario() -> None:
        follower = PeerFollower("ours", lambda _: None, LimitPeer(Limiting()))
        with pytest.raises(grpc.aio.AioRpcError):
            await follower.follow(GrpcRouter("127.0.0.1:1", identities.service("router")))
        assert not follower.is_heard

    asyncio.run(scenario())


def test_a_router_that_falls_silent_is_lost(connect: Connect) -> None:
    async def scenario() -> None:
        router = FakeRouter(PeerWord("first", (ACME,)))
        follower = PeerFollower("ours", lambda _: None, LimitPeer(Limiting()))
        async with connect(router) as connected, asyncio.timeout(PATIENCE_S):
            with pytest.raises(TimeoutError):
                await follower.follow(connected)
        assert not follower.is_heard

    asyncio.run(scenario())


@asynccontextmanager
async def telling(tls: TlsFiles, queues: Queues) -> AsyncIterator[tuple[str, peers.PeerServicer]]:
    """The router's own servicer, behind its own server."""
    servicer = peers.PeerServicer("first", queues, Limiting())
    server = grpc_server(errors={}, callers=peers.CALLERS, tls=tls, services=[peers.SERVICE])
    pb_grpc.add_PeerServiceServicer_to_server(servicer, server.grpc)
    port = server.listen(Address("127.0.0.1:0"), tls)
    await server.start()
    try:
        yield f"127.0.0.1:{port}", servicer
    finally:
        await server.grpc.stop(None)


def acme_alone() -> tuple[Turns, Queues]:
    turns = Turns()
    turns.charge("acme", 10.0, weight=1)
    turns.enter("acme")
    return turns, lambda: iter([((SMALL, Band.INTERACTIVE), turns)])


def test_a_router_tells_all_then_changes_and_signs_of_life_until_it_stops(tmp_path: Path) -> None:
    tls, (turns, queues) = Identities(tmp_path).service("router"), acme_alone()

    async def scenario() -> None:
        async with (
            telling(tls, queues) as (address, servicer),
            asyncio.timeout(PATIENCE_S),
            aclosing(GrpcRouter(address, tls).words()) as words,
        ):
            assert await anext(words) == PeerWord("first", (ACME,))
            assert await anext(words) == PeerWord("first", ()), "a sign of life"
            turns.charge("acme", 5.0, weight=1)
            while not (word := await anext(words)).accounts:
                pass
            assert word.accounts[0].served == 15.0
            servicer.close()
            assert not [word async for word in words if word.accounts]

    asyncio.run(scenario())


@pytest.mark.parametrize("caller", ["operator", "telemetry"])
def test_nobody_but_a_router_may_ask(tmp_path: Path, caller: str) -> None:
    identities, (_, queues) = Identities(tmp_path), acme_alone()

    async def scenario() -> None:
        async with telling(identities.service("router"), queues) as (address, _):
            words = GrpcRouter(address, identities.service(caller)).words()
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await anext(words)
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED

    asyncio.run(scenario())


def test_a_tenant_may_not_ask(tmp_path: Path) -> None:
    identities, (_, queues) = Identities(tmp_path), acme_alone()

    async def scenario() -> None:
        async with telling(identities.service("router"), queues) as (address, _):
            words = GrpcRouter(address, identities.tenant("acme")).words()
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await anext(words)
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED

    asyncio.run(scenario())
