"""The access log says ends twice, out of order, on two streams, or late: no slot leaks or is freed
twice.

The router is a process of its own; we are the Envoy beside it. What is lost is in test_lost_log.py.
"""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx
from envoy.service.accesslog.v3.als_pb2_grpc import AccessLogServiceStub

from evenflow.router.v1 import router_service_pb2 as pb
from evenflow.router.v1.router_service_pb2_grpc import RouterServiceStub
from services.chassis.identity import channel
from services.router.inbound.asked import PEER_HEADER
from tests import processes
from tests.unit.router.test_process import Peers, ready
from tests.unit.router.test_servers import logged
from tests.unit.router.values import GENERATE, WEB, generate

REQUESTS = 200
TIMES = 3  # that each end is said
PATIENCE_S = 60.0
ASK_EVERY_S = 0.1


@dataclass(frozen=True, slots=True)
class Envoy:
    """What Envoy can do to a router, and what an operator sees of it."""

    peers: Peers
    check: httpx.AsyncClient
    log: Any
    operator: Any

    async def admit(self, ids: Sequence[str], *, deadline: str = "1M") -> None:
        for each in ids:
            headers = {"x-request-id": each, PEER_HEADER: WEB, "grpc-timeout": deadline}
            answer = await self.check.post(GENERATE, headers=headers, content=generate())
            assert answer.status_code == 200

    async def say(self, ids: Sequence[str]) -> None:
        """Returns when the router has read it all."""
        await self.log(iter([logged(each) for each in ids]))

    async def held(self) -> tuple[int, int]:
        """Slots, and the tokens that they stand for."""
        listed = await self.operator.ListEndpoints(pb.ListEndpointsRequest())
        return listed.endpoints[0].in_flight, listed.endpoints[0].in_flight_tokens

    async def until_nothing_is_held(self) -> None:
        while await self.held() != (0, 0):  # noqa: ASYNC110 - a router can only be asked
            await asyncio.sleep(ASK_EVERY_S)

    async def records(self, number: int) -> Counter[str]:
        """How often telemetry was told of each request, once it was told so much."""
        await self.peers.telemetry.told_of(number)
        return Counter(self.peers.telemetry.told)


@asynccontextmanager
async def beside_a_router(folder: Path) -> AsyncIterator[Envoy]:
    peers = Peers(folder)
    asking = httpx.AsyncHTTPTransport(uds=peers.check_socket)
    async with (
        peers.serving() as environ,
        processes.service("services.router", environ) as process,
    ):
        me = peers.identities.service("operator")
        await processes.serving(peers.operator, me, server="router")
        async with (
            channel(peers.operator, me, server="router") as calls,
            channel(peers.socket, cast(Any, None), server="router") as sidecar,
            httpx.AsyncClient(transport=asking, base_url="http://router") as check,
        ):
            operator = RouterServiceStub(calls)
            await ready(operator)
            yield Envoy(peers, check, AccessLogServiceStub(sidecar).StreamAccessLogs, operator)
        process.terminate()
        assert await process.wait() == 0


def played(folder: Path, scenario: Callable[[Envoy], Awaitable[None]]) -> None:
    async def within() -> None:
        async with asyncio.timeout(PATIENCE_S), beside_a_router(folder) as envoy:
            await scenario(envoy)

    asyncio.run(within())


def test_ends_that_are_said_again_and_in_any_order_free_one_slot_each(tmp_path: Path) -> None:
    ids = [f"r{number}" for number in range(REQUESTS)]
    over, running = ids[: REQUESTS // 2], ids[REQUESTS // 2 :]
    said = random.Random(1).sample(over * TIMES, TIMES * len(over))  # noqa: S311 - hides nothing

    async def scenario(envoy: Envoy) -> None:
        await envoy.admit(ids)
        _, all_tokens = await envoy.held()
        async with asyncio.TaskGroup() as streams:  # two at once, as after Envoy's own retry
            streams.create_task(envoy.say(said[::2]))
            streams.create_task(envoy.say(said[1::2]))

        assert await envoy.held() == (len(running), all_tokens // 2)
        assert await envoy.records(len(over)) == dict.fromkeys(over, 1)

        await envoy.say(running)
        assert await envoy.held() == (0, 0)
        assert await envoy.records(len(ids)) == dict.fromkeys(ids, 1)

    played(tmp_path, scenario)


def test_ends_that_come_after_the_deadline_free_nothing_of_others(tmp_path: Path) -> None:
    late = [f"late{number}" for number in range(REQUESTS // 2)]
    fresh = [f"fresh{number}" for number in range(REQUESTS // 2)]

    async def scenario(envoy: Envoy) -> None:
        await envoy.admit(late, deadline="500m")
        await envoy.until_nothing_is_held()  # their deadline and the grace after it have passed
        await envoy.admit(fresh)
        held = await envoy.held()

        await envoy.say(late * TIMES)

        assert held[0] == len(fresh)
        assert await envoy.held() == held
        assert await envoy.records(len(late)) == dict.fromkeys(late, 1)
        await envoy.say(fresh)
        assert await envoy.held() == (0, 0)

    played(tmp_path, scenario)


def test_ends_of_requests_that_nobody_asked_about_take_and_free_nothing(tmp_path: Path) -> None:
    strange = [f"strange{number}" for number in range(REQUESTS)]

    async def scenario(envoy: Envoy) -> None:
        await envoy.admit(["ours"])
        held = await envoy.held()

        await envoy.say(list(itertools.chain(strange, strange)))

        assert await envoy.held() == held
        assert await envoy.records(len(strange)) == dict.fromkeys(strange, 1)

    played(tmp_path, scenario)
