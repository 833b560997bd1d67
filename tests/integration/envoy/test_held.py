"""What Envoy makes of answers that are held: they come late, to nobody, or from another router."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from evenflow.inference.v1 import inference_service_pb2 as pb
from services.router.inbound.asked import Question
from services.router.inbound.check_socket import CheckSocket
from services.router.inbound.line import Held
from tests.fakes.envoy_router import let_go
from tests.fakes.scripted_runtime import delta
from tests.integration.envoy.gateway import Gateway, running_gateway
from tests.integration.envoy.mesh import check_socket

pytestmark = pytest.mark.integration

ASK = pb.GenerateRequest(model="m", text="hi")
PATIENCE_S = 30.0
CALLERS = 8


async def one_delta(_: Any) -> AsyncIterator[Any]:
    yield delta("a")


class Holding:
    """The router's own Check socket, which answers nobody by itself."""

    def __init__(self) -> None:
        self.held: list[Held] = []
        self.left = 0

    @asynccontextmanager
    async def serving(self, path: Path) -> AsyncIterator[CheckSocket]:
        socket = CheckSocket(self._hold)
        await socket.listen(path)
        try:
            yield socket
        finally:
            socket.close()

    async def until(self, *, held: int, left: int = 0) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while (len(self.held), self.left) != (held, left):  # noqa: ASYNC110 - callbacks write it down
                await asyncio.sleep(0.01)

    def _hold(self, _: Question) -> Held:
        self.held.append(Held(self._leave))
        return self.held[-1]

    def _leave(self) -> None:
        self.left += 1


@asynccontextmanager
async def gateway_of(folder: Path, holding: Holding) -> AsyncIterator[tuple[Gateway, CheckSocket]]:
    async with running_gateway(folder) as gateway:
        gateway.play(one_delta)
        await gateway.router.aclose()
        async with holding.serving(check_socket(folder / "router.sock")) as socket:
            yield gateway, socket


async def asked(gateway: Gateway) -> None:
    call = gateway.stub.Generate(ASK, timeout=PATIENCE_S)
    assert [each async for each in call]


def test_a_held_question_is_answered_late_and_other_callers_are_not_in_its_way(
    tmp_path: Path,
) -> None:
    async def run() -> None:
        holding = Holding()
        async with gateway_of(tmp_path, holding) as (gateway, _), asyncio.TaskGroup() as tasks:
            for _ in range(CALLERS):
                tasks.create_task(asked(gateway))
            await holding.until(held=CALLERS)
            for each in reversed(holding.held):
                each.reply(let_go(gateway.addresses[0]))
        assert holding.left == 0

    asyncio.run(run())


def test_a_caller_who_leaves_while_held_is_noticed_at_once(tmp_path: Path) -> None:
    async def run() -> None:
        holding = Holding()
        async with gateway_of(tmp_path, holding) as (gateway, _):
            leaver = gateway.stub.Generate(ASK, timeout=PATIENCE_S)
            await holding.until(held=1)
            leaver.cancel()
            await holding.until(held=1, left=1)

            with pytest.raises(grpc.aio.AioRpcError):
                await gateway.stub.Generate(ASK, timeout=0.3).read()
            await holding.until(held=2, left=2)

    asyncio.run(run())


def test_those_whom_a_router_held_when_it_went_are_asked_about_again(tmp_path: Path) -> None:
    async def run() -> None:
        first, second = Holding(), Holding()
        async with gateway_of(tmp_path, first) as (gateway, socket), asyncio.TaskGroup() as tasks:
            for _ in range(CALLERS):
                tasks.create_task(asked(gateway))
            await first.until(held=CALLERS)
            socket.close()
            async with second.serving(check_socket(tmp_path / "router.sock")):
                await second.until(held=CALLERS)
                for each in second.held:
                    each.reply(let_go(gateway.addresses[0]))
                async with asyncio.timeout(PATIENCE_S):
                    while len(gateway.runtimes[0].calls) < CALLERS:  # noqa: ASYNC110 - it can only be asked
                        await asyncio.sleep(0.01)
        assert first.left == CALLERS
        assert second.left == 0

    asyncio.run(run())
